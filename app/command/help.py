"""`--help`: one screen; the rest by its name.

--help            usage, modes, the settings that one needs, where the rest is
--help all        every setting, by section
--help engine     one section; or one setting by any of its names, or one mode

The words stand after it: `engine --help` is of a model in a folder of that name, and one screen.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from app.command.flags import MODES, OWN_FLAGS, PROGRAM
from app.command.show import columns
from app.errors import ConfigError
from app.settings.catalogue import DECLARATIONS
from app.settings.command_line import SHORT
from app.settings.declare import Declaration, flag_of
from app.settings.show import MOST_NEEDED, limits, shown
from app.settings.sources import names
from app.settings.spelling import hint

_WIDTH = 28
"""Of the column of names."""
_SHORT_HELP = {
    "model_path": "folder, or name on Hugging Face's hub, as the word without a flag",
    "served_model_name": "its name in the API; `x,*` takes any name",
    "hf_token": "for models that are gated or private: the variable HF_TOKEN",
    "context_length": "tokens of prompt and answer together, such as 32k",
    "tp_size": "GPUs that the model is split over; auto: as many as fit",
    "mem_fraction_static": "part of the GPU's memory for weights and KV cache",
    "port": "to listen on; default: 8000",
    "api_key": "keys of clients, separated by commas: the variable API_KEY",
    "max_concurrency": "sequences in the engine at a time",
    "max_queue": "requests that wait; past it 503",
    "drain_timeout_s": "seconds to finish requests after SIGTERM",
    "log_level": "debug, info, warning or error",
}
"""Of the twelve: the first half of a sentence."""


_FIRST_SCREEN = ("help", "serve", "runpod")
_ALL = "all"


def is_topic(words: Sequence[str]) -> bool:
    """There is help on these words."""
    topic = " ".join(words).strip().lower()
    if topic in (*_FIRST_SCREEN, _ALL):
        return True
    try:
        return any(_about(topic))
    except ConfigError:
        return False


def show(topics: Sequence[str]) -> int:
    topic = " ".join(topics).strip().lower()
    if topic in _FIRST_SCREEN:
        print("\n".join(_screen()))
    elif topic == _ALL:
        for section, declared in _sections():
            print("\n".join([f"{section}:", *_settings(declared), ""]))
    else:
        print("\n".join(_about(topic)))
    return 0


def _screen() -> Iterator[str]:
    yield f"usage: {PROGRAM} [MODE] [MODEL] [--flag VALUE ...]"
    yield ""
    yield "Serve a language model with SGLang, behind OpenAI's and Anthropic's API."
    yield f"  {PROGRAM} Qwen/Qwen2.5-0.5B-Instruct --port 8000"
    yield f"  {PROGRAM} --demo                  a small model, to see it work"
    yield f"  {PROGRAM} --engine scripted       no model: every endpoint answers by a script"
    yield ""
    yield "modes:"
    for mode, text in MODES.items():
        yield f"  {mode:<{_WIDTH}}{text}"
    yield ""
    yield "the settings that one needs:"
    for field in MOST_NEEDED:
        yield f"  {_flag(DECLARATIONS[field]):<{_WIDTH}}{_SHORT_HELP[field]}"
    yield f"  {'--engine-arg NAME=VALUE':<{_WIDTH}}any other option of SGLang"
    yield ""
    yield "Every flag is also a variable (--tp-size 2 is TP_SIZE=2), and a line of --config FILE"
    yield "(YAML or TOML), of .env or of DEPLOYMENT_CONFIG_JSON. Short: -tp, -pp, -dp, -q, -ep."
    yield f"All settings: {PROGRAM} --help all, or docs/settings.md. One: --help NAME."


def _flag(declared: Declaration) -> str:
    return f"--{flag_of(declared.names[0])} {_value(declared)}".rstrip()


def _value(declared: Declaration) -> str:
    return "" if declared.is_switch else "N" if declared.is_number else "VALUE"


def _sections() -> Iterator[tuple[str, list[Declaration]]]:
    for section, declared in groupby(DECLARATIONS.values(), lambda each: each.section):
        yield section, list(declared)


def _settings(every: Iterable[Declaration]) -> Iterator[str]:
    for declared in every:
        if declared.has_flag:
            yield f"  {_flag(declared)}"
            text = f"{declared.help}{limits(declared)} [{declared.names[0]}]"
            yield from textwrap.wrap(
                text, columns(), initial_indent="      ", subsequent_indent="      "
            )


def _about(topic: str) -> Iterator[str]:
    """Raises ConfigError if nothing is called so."""
    if topic in MODES:
        yield f"{PROGRAM} {topic}: {MODES[topic]}"
        for flag, text in OWN_FLAGS.get(topic, ()):
            yield f"  {flag:<{_WIDTH}}{text}"
        if topic in ("settings", "openapi"):
            yield f"It takes the flags of every setting, too: {PROGRAM} --help all"
        if topic in ("check", "bench"):
            yield f"Its flags: {PROGRAM} {topic} --help"
        return
    if sections := [each for each in _sections() if each[0].lower().startswith(topic)]:
        for section, settings in sections:
            yield f"{section}:"
            yield from _settings(settings)
        return
    by_name = names()
    flag = SHORT.get(topic, SHORT.get(f"--{topic}", topic))
    name = flag.lstrip("-").upper().replace("-", "_")
    if name not in by_name:
        known = [
            *MODES,
            *(each.lower() for each in by_name),
            *(each.lower() for each, _ in _sections()),
        ]
        raise ConfigError(f"there is no help on {topic[:60]!r}{hint(name.lower(), known)}")
    declared = by_name[name]
    yield f"{', '.join(declared.accepted_names)}  (section {declared.section})"
    if declared.has_flag:
        yield f"flags: {', '.join(f'--{flag_of(each)}' for each in declared.accepted_names)}"
    yield f"default: {shown(declared.default) or 'none'}"
    yield from textwrap.wrap(f"{declared.help}{limits(declared)}", columns())
