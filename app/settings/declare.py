"""How a setting is declared: its names, its section, its limits, and the types of its values.

    class Settings(BaseModel):
        port: int = SERVER.setting(8000, "PORT", ge=0, le=65535, help="Port to listen on.")
        dtype: str | None = ENGINE.engine_option("DTYPE", help="Data type of the weights.")

`declarations(Settings)` reads these back as records, which the rest of the package works from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args

from pydantic import BaseModel, BeforeValidator, Field, SecretStr
from pydantic.fields import FieldInfo

from app.settings import json_text

# -- types of values ---------------------------------------------------------------------------


def _listed(value: object) -> object:
    """`a, b` and `["a", "b"]` are both lists; so is a single value."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json_text.parsed(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def decoded(value: object) -> object:
    """A JSON text as what it holds. Raises ValueError that says it must be an object."""
    if not isinstance(value, str):
        return value
    try:
        return json_text.parsed(value)
    except json_text.TooDeep:
        raise
    except ValueError as error:
        raise ValueError(f"must be a JSON object: {error}") from None


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


_LEVELS = {"trace": "debug", "warn": "warning", "critical": "error", "fatal": "error"}
"""Levels of other programs, uvicorn's among them -> the nearest one here."""


def _level(value: object) -> object:
    lowered = _lowered(value)
    return _LEVELS.get(lowered, lowered) if isinstance(lowered, str) else lowered


_NUMBER = re.compile(r"(\d+(?:\.\d+)?) ?([kmgKMGT])(B|iB)?")
_MULTIPLES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""vLLM's: `8k` is 8000 and `8K` is 8192."""


def number(value: object, *, of_bytes: bool) -> object:
    """`32k`, `1.5M`; `8MB` and `8MiB` if it counts bytes. Anything else is left as it is."""
    if not isinstance(value, str) or (match := _NUMBER.fullmatch(value.strip())) is None:
        return value
    digits, multiple, unit = match.groups()
    if unit is not None and not of_bytes:
        return value
    letter = multiple if unit is None else multiple.upper()
    factor = _MULTIPLES[letter]
    if unit == "B":
        factor = 1000 ** (1 + "KMGT".index(letter))
    return int(Decimal(digits) * factor)


def _unless(*nothing: str) -> BeforeValidator:
    """These words mean "not set", in the forms of hosting platforms and to other servers."""

    def read(value: object) -> object:
        return None if str(value).strip().lower() in nothing else value

    return BeforeValidator(read)


def _images(value: object) -> object:
    """Of vLLM's limits for each kind of content, `image=4,video=0` or `{"image": 4}`, that one."""
    if not isinstance(value, str) or value.strip().isdecimal():
        return value
    if value.lstrip().startswith("{"):
        limits = json_text.parsed(value)
    else:
        limits = dict(part.partition("=")[::2] for part in value.replace(" ", "").split(","))
    if "image" not in limits:
        raise ValueError("must be a number, or have one for 'image'")
    return limits["image"]


def _paths_by_name(value: object) -> object:
    """Adapters in the forms of vLLM and SGLang: a JSON list of objects with a name and a path, a
    JSON object of paths by names, or `name=path` and plain paths between blanks or commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json_text.parsed(value)
    entries = (
        json_text.parsed(value)
        if value.lstrip().startswith("[")
        else value.replace(",", " ").split()
    )
    paths: dict[str, str] = {}
    for entry in entries:
        name, path = _name_and_path(entry)
        if name in paths:
            raise ValueError(f"has two adapters of the name {name!r}")
        paths[name] = path
    return paths


def _name_and_path(entry: object) -> tuple[str, str]:
    if isinstance(entry, str):
        before, separator, after = entry.partition("=")
        return (before, after) if separator else (entry, entry)
    if isinstance(entry, dict):
        names = (entry.get("name"), entry.get("lora_name"))
        paths = (entry.get("path"), entry.get("lora_path"), entry.get("local_path"))
        name, path = next(filter(None, names), None), next(filter(None, paths), None)
        if isinstance(name, str) and isinstance(path, str):
            return name, path
    raise ValueError('must be a list of {"name": ..., "path": ...}')


Images: TypeAlias = Annotated[int, BeforeValidator(_images)]
PathsByName: TypeAlias = Annotated[dict[str, str], BeforeValidator(_paths_by_name)]
Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Secrets: TypeAlias = Annotated[tuple[SecretStr, ...], BeforeValidator(_listed)]
Options: TypeAlias = Annotated[dict[str, Any], BeforeValidator(decoded)]
TensorParallel: TypeAlias = Annotated[
    Annotated[int, Field(ge=1)] | Literal["auto"] | None, BeforeValidator(_lowered)
]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error"], BeforeValidator(_level)
]
ContextLength: TypeAlias = Annotated[int | None, _unless("auto", "-1")]
BatchTokens: TypeAlias = Annotated[int | None, _unless("0")]
Device: TypeAlias = Annotated[str | None, _unless("auto")]
Quantization: TypeAlias = Annotated[str | None, _unless("none")]

# -- declarations ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One setting, as loading, the command line and the documentation see it."""

    names: tuple[str, ...]
    """Names of the variable, the preferred one first."""
    section: str
    help: str
    default: Any
    engine_option: str | None = None
    """SGLang's option that the value is passed on as, if it is set."""
    empty_is_a_value: bool = False
    """An empty string does not mean "not set"."""
    has_flag: bool = True
    """The command line can set it."""
    bounds: tuple[str, ...] = ()
    """Fields of a request: the value is the most that they may hold."""
    limits: tuple[tuple[str, float], ...] = ()
    """pydantic's `ge`, `gt`, `le`, `lt` that the value must keep."""
    field: str = ""
    """Its attribute in `Settings`; `declarations` fills this in, and the next three."""
    is_switch: bool = False
    """True or false: as a flag it needs no value."""
    is_number: bool = False
    """An integer, which may be written as `32k`."""
    is_secret: bool = False
    """A key or a token: no process has it that does not need it."""

    @property
    def accepted_names(self) -> tuple[str, ...]:
        """All variables that set it: the field's own name counts, too."""
        return tuple(dict.fromkeys((*self.names, self.field.upper())))

    @property
    def hard_limit(self) -> int | None:
        """The most that the operator can set."""
        return cast("int | None", dict(self.limits).get("le"))


_SAME_NAME = ""
"""For an engine option that SGLang calls as the field is called here."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading of docs/settings.md; settings are declared under one."""

    title: str

    def setting(
        self,
        default: Any,
        *names: str,
        help: str,
        empty_is_a_value: bool = False,
        has_flag: bool = True,
        bounds: tuple[str, ...] = (),
        **limits: float,
    ) -> Any:
        """Declare a setting. `limits`: pydantic's `ge`, `gt`, `le`, `lt`."""
        declaration = Declaration(
            names=names,
            section=self.title,
            help=help,
            default=default,
            empty_is_a_value=empty_is_a_value,
            has_flag=has_flag,
            bounds=bounds,
            limits=tuple(limits.items()),
        )
        return _field(declaration, limits)

    def engine_option(
        self,
        *names: str,
        help: str,
        default: Any = None,
        sglang: str = _SAME_NAME,
        **limits: float,
    ) -> Any:
        """Declare a setting that is passed on to SGLang.

        `sglang`: the name of the option there, if it is not the field's.
        """
        declaration = Declaration(
            names=names,
            section=self.title,
            help=help,
            default=default,
            engine_option=sglang,
            limits=tuple(limits.items()),
        )
        return _field(declaration, limits)


def _field(declaration: Declaration, limits: dict[str, Any]) -> Any:
    # pydantic only keeps the extra here: nothing makes a JSON schema of the settings.
    extra: dict[str, Any] = {"declaration": declaration}
    return Field(declaration.default, json_schema_extra=extra, **limits)


def declarations(settings: type[BaseModel]) -> dict[str, Declaration]:
    """Field -> its declaration, in the order of the class."""
    return {name: _declaration(name, field) for name, field in settings.model_fields.items()}


def _declaration(name: str, field: FieldInfo) -> Declaration:
    declared: Declaration = cast("dict[str, Any]", field.json_schema_extra)["declaration"]
    option = declared.engine_option
    return replace(
        declared,
        field=name,
        is_switch=field.annotation in (bool, bool | None),
        is_number=int in (field.annotation, *get_args(field.annotation)),
        is_secret=_holds_secrets(field.annotation),
        engine_option=name if option == _SAME_NAME else option,
    )


def _holds_secrets(annotation: object) -> bool:
    return annotation is SecretStr or any(map(_holds_secrets, get_args(annotation)))


def flag_of(name: str) -> str:
    """`TP_SIZE` -> `tp-size`, as it stands behind the two dashes."""
    return name.lower().replace("_", "-")
