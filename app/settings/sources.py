"""Sources of settings beside the environment and the command line: files.

    .env in the working folder       NAME=value, of settings alone                    ENV_FILE
    /run/secrets/api_key             a file for each secret, as Docker and Kubernetes  SECRETS_DIR
    API_KEY_FILE=/path               the same, for one
    --config server.yaml             names and values, as YAML or TOML                SETTINGS_FILE

Each becomes a mapping from names to values, which load.py merges as it does the environment. Where
the files lie is said by the command line or the environment, never by such a file.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.errors import ConfigError
from app.settings import files, sglang_options
from app.settings.catalogue import DECLARATIONS
from app.settings.declare import Declaration, flag_of
from app.settings.spelling import hint

_MOST_SECRET_BYTES = 64 * 1024
SECRETS = {*(each.field for each in DECLARATIONS.values() if each.is_secret), "store_url"}
"""Settings that may be files. A database's URL has its password in it."""
PLACES = ("env_file", "secrets_dir", "settings_file")
"""Settings that say where others are."""


@dataclass(frozen=True, slots=True)
class Source:
    """What one source sets."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Name of a variable -> value."""
    shape: str = "{}"
    """Makes an origin of a name."""
    spelled: Mapping[str, str] = field(default_factory=dict)
    """Names that are written otherwise there."""
    warnings: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """Names of a `.env` file that are no setting, and have a value there."""


def names() -> dict[str, Declaration]:
    """Every name of a variable -> its setting."""
    return {name: each for each in DECLARATIONS.values() for name in each.accepted_names}


def place(
    which: str, flags: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[str, str | None]:
    """Where one of the sources lies, and what said so: None if it is the default."""
    declared = DECLARATIONS[which]
    for name in declared.accepted_names:
        if (value := flags.get(flag_of(name))) is not None:
            return str(value), f"--{flag_of(name)}"
    for name in declared.accepted_names:
        if (text := environ.get(name)) is not None:
            return text, name
    return declared.default or "", None


# -- .env ----------------------------------------------------------------------------------------


def env_file(path: str, said_by: str | None) -> Source:
    """The settings of a `.env` file; other names are not taken. `said_by`: None if it was not asked
    for, and then nothing is wrong without one.

    Raises ConfigError for one that is not taken as it stands, be it the whole file or a line that
    is not NAME=value: the API could be open without its key."""
    if not path:
        return Source()
    file = files.path_of(path, said_by or "ENV_FILE")
    try:
        if said_by is None and not _may_be_settings(file):
            return Source()
    except OSError as error:  # a folder that this user may not enter: it may have none
        return Source(warnings=(f"{path} is not read: {error.strerror}; ENV_FILE names it",))
    try:
        text = files.read_text(file, said_by or f"{path} is not read", trusted=said_by is not None)
        if "\0" in text:
            raise ConfigError(f"{said_by or f'{path} is not read'}: {path} is not text")
    except ConfigError as error:
        if said_by is not None:
            raise
        raise ConfigError(f"{error} (ENV_FILE= reads none)") from None
    known = names()
    found = _bindings(text, str(file), said_by)
    taken = {name: value for name, value in found.items() if name in known}
    others = sorted(name for name in found if name not in known)
    source = Source(taken, f"{path} {{}}", unknown=tuple(name for name in others if found[name]))
    if not taken and (said_by is None or not others):
        return source
    line = f"{file.absolute()} sets {_listed(sorted(taken)) or 'nothing here'}"
    if others:
        names_of_others = _listed([shown(name) for name in others])
        line += f"; {names_of_others} of it {'is' if len(others) == 1 else 'are'} no setting"
    return replace(source, warnings=(f"{line} (ENV_FILE= reads none)",))


def plain(name: str) -> str:
    """A name as a variable's: `"api-key"` is API_KEY."""
    return name.strip("\"'`$").upper().replace("-", "_").replace(".", "_")


def shown(name: str) -> str:
    """Without what follows a colon: of `API_KEY:c2VjcmV0=` that is the key."""
    return name.partition(":")[0][:60]


def _may_be_settings(file: Path) -> bool:
    """Something is there, even a link to nothing. A folder is a virtual environment's, and a device
    is /dev/null, put there so that a container has no `.env`. Raises OSError."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return file.is_symlink()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    return not (stat.S_ISDIR(mode) or stat.S_ISCHR(mode))


def _bindings(text: str, path: str, said_by: str | None) -> dict[str, str]:
    """The names that the file gives a value. Raises ConfigError."""
    from dotenv.parser import parse_stream

    found: dict[str, str] = {}
    known, elsewhere = names(), _places() | names_of_files(SECRETS)
    # `${NAME}` stays as it is: what a value is does not depend on the rest of the environment.
    for each in parse_stream(io.StringIO(text)):
        written = each.original.string
        no = each.original.line + written[: len(written) - len(written.lstrip())].count("\n")
        # `export NAME` is well after NAME=value.
        is_bare = each.value is None and each.key in known and each.key not in found
        name, colon, _ = (each.key or "").partition(":")
        wrong = None
        if each.error or is_bare or (colon and plain(name) in known):
            wrong = "it is not NAME=value"
        elif each.key in elsewhere:
            wrong = f"{each.key} says where settings are read from; set it in the environment"
        elif each.key in known and each.value not in (None, found.get(each.key, each.value)):
            wrong = f"{each.key} is there twice with different values; keep one"
        if wrong is not None:
            none = " (ENV_FILE= reads none)" if said_by is None else ""
            raise ConfigError(f"{said_by or 'ENV_FILE'}: {path}, line {no}: {wrong}{none}")
        if each.key is not None and each.value is not None:
            found[each.key] = each.value
    return found


def _places() -> set[str]:
    return {name for each in PLACES for name in DECLARATIONS[each].accepted_names}


def _listed(items: Collection[str], most: int = 8) -> str:
    shown = list(items)[:most]
    more = len(items) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


# -- secrets -------------------------------------------------------------------------------------


def secrets(folder: str, said_by: str | None, without: Collection[str] = ()) -> Source:
    """Of the folder the files that are named as a secret setting, in lower or upper case.

    `without`: fields whose files are not read."""
    root = files.path_of(folder, said_by or "SECRETS_DIR")
    if not folder or (said_by is None and not root.is_dir()):
        return Source()
    try:
        present = {each.name for each in os.scandir(root)}
    except OSError as error:
        line = f"{folder} cannot be read: {error.strerror}"
        if said_by is None:  # it may be another program's
            return Source(warnings=(f"{line} (SECRETS_DIR= reads none)",))
        raise ConfigError(f"{said_by}: {line}") from None
    values: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for name in _secret_names(without):
        for spelling in {name, name.lower()} & present:
            value = _secret(root / spelling, str(root / spelling))
            if values.setdefault(name, value) != value:
                raise ConfigError(f"{folder} has {name} in lower and in upper case; keep one")
            spelled[name] = spelling
    return Source(values, f"{folder.rstrip('/')}/{{}}", spelled)


def secret_files(environ: Mapping[str, str], without: Collection[str] = ()) -> Source:
    """`API_KEY_FILE=/path`: the file's content is the value of API_KEY."""
    values = {}
    for name in _secret_names(without):
        if path := environ.get(f"{name}_FILE"):
            values[name] = _secret(files.path_of(path, f"{name}_FILE"), f"{name}_FILE")
    return Source(values, "{}_FILE")


def names_of_files(fields: Collection[str]) -> set[str]:
    """The variables that say where the secrets of these settings are."""
    return {
        f"{name}_FILE"
        for each in fields
        if each in SECRETS
        for name in DECLARATIONS[each].accepted_names
    }


def _secret(path: Path, origin: str) -> str:
    text = files.read_text(path, origin, most_bytes=_MOST_SECRET_BYTES).strip()
    if not text:
        raise ConfigError(f"{origin}: {path} is empty")  # a key of nothing would leave the API open
    return text


def _secret_names(without: Collection[str]) -> Iterator[str]:
    for each in sorted(SECRETS.difference(without)):
        yield from DECLARATIONS[each].accepted_names


# -- a file of settings --------------------------------------------------------------------------


def settings_file(path: str, said_by: str | None) -> Source:
    """Names of settings or flags, and their values. Raises ConfigError for a name that is none."""
    if not path:
        return Source()
    origin = said_by or "SETTINGS_FILE"
    known = names()
    values: dict[str, Any] = {}
    for key, value in files.read_mapping(files.path_of(path, origin), origin).items():
        name = _SHORT.get(key, key).upper().replace("-", "_")
        if name not in known or name in _places():
            raise ConfigError(f"{path}: {_unknown(key, name, known)}")
        if values.setdefault(name, value) != value:
            raise ConfigError(f"{path} has {name.lower()} twice; keep one")
    return Source(values, f"{path} {{}}")


_SHORT = {"tp": "TP_SIZE", "pp": "PP_SIZE", "dp": "DP_SIZE"}


def _unknown(key: str, name: str, known: Mapping[str, object]) -> str:
    if name in _places():
        return f"{key} says where settings are read from, and is set outside of it"
    if name.lower() in sglang_options.FIELDS:
        return f"{key[:60]!r} is an option of SGLang's; set it in engine_args"
    return f"there is no setting {key[:60]!r}{hint(name.lower(), [n.lower() for n in known])}"
