"""The command line: its flags, made from the declarations, and how its words are read.

    serve_hathora.py Qwen/Qwen2.5-0.5B-Instruct -tp 2 --no-enable-prefix-caching serve
                     └ the model                │     └ a switch that is off      └ the mode
                                                └ a short flag of vLLM's and SGLang's

Each flag takes one value; a switch takes one only if it reads as true or false, so that a model may
follow it. Mistakes are a ConfigError of one line that names the nearest flag.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from app.errors import ConfigError
from app.settings import json_text, sglang_options, translations, vllm
from app.settings.catalogue import DECLARATIONS, ENGINE
from app.settings.declare import decoded, flag_of
from app.settings.explain import contradiction
from app.settings.spelling import hint

SHORT = {
    "-tp": "--tp-size",
    "--tp": "--tp-size",
    "-pp": "--pp-size",
    "--pp": "--pp-size",
    "-dp": "--dp-size",
    "--dp": "--dp-size",
    "-q": "--quantization",
    "-n": "--nnodes",
    "-r": "--node-rank",
    "-ep": "--enable-expert-parallel",
    "-sc": "--speculative-config",
    "--config": "--settings-file",
    "--enable-ep-moe": "--enable-expert-parallel",
    "--nccl-init-addr": "--dist-init-addr",
    "--speculative-draft-model": "--speculative-model",
}
"""Flags that `vllm serve` and `sglang.launch_server` have beside the names of the settings."""
_TRUTH = {"true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n"}
"""As pydantic reads them."""
_NUMBER = re.compile(r"-\.?\d")
_MODEL_FLAGS = [flag_of(name) for name in DECLARATIONS["model_path"].accepted_names]
_LISTS = {
    f"--{flag_of(name)}": declared.is_secret
    for declared in DECLARATIONS.values()
    if isinstance(declared.default, tuple)
    for name in declared.accepted_names
}
"""Flags of lists, which vLLM takes as several words -> they are keys."""
_ONE_OPTION, _OPTIONS = "engine-arg", "engine-args"
"""The flag of one option of SGLang, which may be repeated, and the one of several, as JSON."""


class Parser(argparse.ArgumentParser):
    """Its mistakes are a ConfigError: one line, and the exit code of a wrong setting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        for word in unknown:
            name = word.partition("=")[0]
            known = [each for each in self.flags() if each.startswith("--")]
            self.error(f"there is no {name[:60]!r}{hint(name, known)}")
        return cast("argparse.Namespace", parsed)

    def error(self, message: str) -> NoReturn:
        mode = self.prog.partition(" ")[2]
        raise ConfigError(f"{mode}: {message}" if mode else message)

    def flags(self) -> Mapping[str, argparse.Action]:
        return self._option_string_actions


@dataclass(frozen=True, slots=True)
class Words:
    """A command line, taken apart."""

    mode: str | None
    rest: list[str]
    """The words without the mode."""


def mode_of(words: Sequence[str], modes: Collection[str], parser: Parser) -> Words:
    """The first of the modes that stands among the words as a word of its own, not as the value of
    a flag of `parser`."""
    at = 0
    while at < len(words):
        if words[at] == "--":
            break
        if words[at] in modes:
            return Words(words[at], [*words[:at], *words[at + 1 :]])
        at += 2 if _takes_next(words, at, parser) else 1
    return Words(None, list(words))


def read(words: Sequence[str], parser: Parser, modes: Collection[str]) -> dict[str, Any]:
    """What the words set: the flags as `parser` has them, a word without a flag as the model.

    Raises ConfigError.
    """
    flags: list[str] = []
    models: list[str] = []
    is_meant = False
    at = 0
    last = ""
    while at < len(words):
        word, before = words[at], last
        at += 1
        if word == "--":
            models, is_meant = [*models, *words[at:]], True
            break
        if not word.startswith("-") or _NUMBER.match(word):
            _refuse_second_value(word, before)
            models.append(word)
            last = ""
            continue
        takes_next = _takes_next(words, at - 1, parser)
        flag = _known(word, parser)
        if takes_next:
            flag, at = f"{flag}={words[at]}", at + 1
        elif "=" not in flag and _takes_value(parser.flags()[flag]):
            raise ConfigError(f"{word} needs a value: {flag} {parser.flags()[flag].metavar}")
        flags.append(flag)
        last = flag.partition("=")[0]
    _refuse_contradictions(flags)
    values = _with_options(vars(argparse.ArgumentParser.parse_args(parser, flags)))
    return _with_model(values, models, modes, is_meant=is_meant)


def _refuse_second_value(word: str, flag: str) -> None:
    """Raises ConfigError for a word after the value of a list: it may be the model or, as vLLM has
    it, a part of the list, even a key."""
    if flag in _LISTS:
        shown = "a word" if _LISTS[flag] else repr(word[:100])
        raise ConfigError(
            f"{shown} stands after the value of {flag}: separate several by commas, and write a "
            "model before the flags or as --model-path"
        )


def _refuse_contradictions(flags: Sequence[str]) -> None:
    """Raises ConfigError for a flag that is there twice with different values, of which argparse
    would take the last. `flags`: each with its value."""
    seen: dict[str, str] = {}
    for each in flags:
        flag, equals, text = each.partition("=")
        value = text if equals else "true"
        if flag != f"--{_ONE_OPTION}" and seen.setdefault(flag, value) != value:
            several = "; separate several by commas" if flag in _LISTS else ""
            raise ConfigError(f"{flag} is there twice with different values; keep one{several}")


def _with_model(
    values: dict[str, Any], models: Sequence[str], modes: Collection[str], *, is_meant: bool
) -> dict[str, Any]:
    """`is_meant`: `--` stood before it, so it is not the name of a mode."""
    if not models:
        return values
    model = models[0]
    if len(models) > 1:
        raise ConfigError(
            f"{models[1][:100]!r} stands alone, and the model is {model[:100]!r} already; "
            "a flag begins with --"
        )
    if not is_meant and "/" not in model and (meant := hint(model, modes)):
        raise ConfigError(
            f"there is no mode {model[:60]!r}{meant} A model of that name: --model-path {model}"
        )
    for flag in _MODEL_FLAGS:
        if (also := values.get(flag, model)) != model:
            raise ConfigError(
                f"{model[:100]!r} and --{flag} {str(also)[:100]!r} are both the model; keep one"
            )
    return {"model-path": model, **values}


def _takes_next(words: Sequence[str], at: int, parser: Parser) -> bool:
    """The word after this one is the value of the flag that this one is."""
    name = SHORT.get(words[at], words[at])
    action = parser.flags().get(_underscored(name))
    if action is None or at + 1 >= len(words):
        return False
    following = words[at + 1]
    if action.nargs == "?":
        return following.lower() in (action.choices or _TRUTH)
    is_flag = following.startswith("-") and not _NUMBER.match(following)
    return _takes_value(action) and not (is_flag and _is_flag(following, parser))


def _is_flag(word: str, parser: Parser) -> bool:
    name = word.partition("=")[0]
    return _underscored(SHORT.get(name, name)) in parser.flags()


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs is None


def _underscored(name: str) -> str:
    """SGLang and vLLM take `--tp_size` for `--tp-size`."""
    return name.replace("_", "-") if name.startswith("--") else name


def _known(word: str, parser: Parser) -> str:
    """The flag as `parser` knows it, with the value that it may have. Raises ConfigError."""
    name, equals, value = word.partition("=")
    flag = _underscored(SHORT.get(name, name))
    if flag in parser.flags():
        return flag + equals + value
    positive = parser.flags().get(flag.replace("--no-", "--", 1))
    if positive is not None and positive.metavar == _BOOL and not equals:
        return f"{flag.replace('--no-', '--', 1)}=false"
    raise ConfigError(f"there is no flag {name[:60]}{_why_not(flag, parser)}")


def _why_not(flag: str, parser: Parser) -> str:
    name = flag.lstrip("-")
    option, variable = name.replace("-", "_"), name.replace("-", "_").upper()
    if option in sglang_options.FIELDS:
        return f": it is an option of SGLang's; set it by --engine-arg {option}=VALUE"
    why = vllm.REFUSED.get(variable) or vllm.REFUSED_FLAGS.get(name)
    if why is not None:
        return f": it cannot be honoured ({why})"
    why = translations.GONE.get(variable) or vllm.FLAGS_WITHOUT_EFFECT.get(name)
    if why is not None:
        return f": it would have no effect ({why})"
    return hint(flag, [each for each in parser.flags() if each.startswith("--")])


# -- flags ---------------------------------------------------------------------------------------

_BOOL = "BOOL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for every name of every setting, plus `--engine-arg name=value`."""
    groups: dict[str, Any] = {}
    for field, declared in DECLARATIONS.items():
        if not declared.has_flag:
            continue
        title = declared.section
        group = groups.setdefault(title, parser.add_argument_group(title))
        flags = [flag_of(name) for name in declared.accepted_names]
        text = f"{declared.help} [{declared.names[0]}]".replace("%", "%%")
        takes: dict[str, Any] = (
            {"nargs": "?", "const": "true", "metavar": _BOOL}
            if declared.is_switch
            else {"metavar": field.upper()}
        )
        for flag in flags:
            group.add_argument(
                f"--{flag}",
                # Each spelling has a slot of its own, so that two that contradict are noticed.
                dest=flag,
                default=argparse.SUPPRESS,
                help=text if flag == flags[0] else argparse.SUPPRESS,
                **takes,
            )
    groups[ENGINE.title].add_argument(
        f"--{_ONE_OPTION}",
        dest=_ONE_OPTION,
        action=_EngineArg,
        metavar="NAME=VALUE",
        default=argparse.SUPPRESS,
        help="Any option of SGLang; may be repeated.",
    )


class _EngineArg(argparse.Action):
    """Collects `--engine-arg name=value`; the value is JSON if it reads as such, else text."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option: object = None
    ) -> None:
        name, equals, text = str(values).partition("=")
        if not equals or not name:
            raise argparse.ArgumentError(self, f"expected NAME=VALUE, got {values!r}")
        name = name.replace("-", "_")
        try:
            value = json_text.parsed(text)
        except json_text.TooDeep as error:
            raise argparse.ArgumentError(self, f"{name[:60]} {error}") from None
        except ValueError:
            value = text
        options: dict[str, Any] = getattr(namespace, _ONE_OPTION, {})
        if not _same(options.setdefault(name, value), value):
            raise argparse.ArgumentError(
                self, f"{name[:60]} is there twice with different values; keep one"
            )
        setattr(namespace, _ONE_OPTION, options)


def _with_options(values: dict[str, Any]) -> dict[str, Any]:
    """`--engine-args` with every `--engine-arg`, wherever they stand. Raises ConfigError."""
    single = values.pop(_ONE_OPTION, None)
    if single is None:
        return values
    try:
        options = decoded(values.get(_OPTIONS, {}))
    except ValueError as error:
        raise ConfigError(f"--{_OPTIONS}: {error}") from None
    if not isinstance(options, dict):
        raise ConfigError(f"--{_OPTIONS}: must be a JSON object")
    for name in sorted(single.keys() & options.keys()):
        if not _same(single[name], options[name]):
            raise ConfigError(
                contradiction(f"--{_OPTIONS} {name[:60]}", f"--{_ONE_OPTION} {name[:60]}")
            )
    return {**values, _OPTIONS: {**options, **single}}


def _same(one: object, other: object) -> bool:
    """As JSON: 1 is not true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
