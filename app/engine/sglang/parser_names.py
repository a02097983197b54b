"""Names of output formats: SGLang's, and what other servers call the same."""

from __future__ import annotations

import difflib

from app.errors import ConfigError
from app.logs.setup import log

# vLLM's, Dynamo's and TensorRT-LLM's names that do not become SGLang's by their spelling alone.
_CALLS = {
    "llama3_json": "llama3", "llama4_json": "llama3", "llama4_pythonic": "pythonic",
    "llama4": "pythonic",
    "harmony": "gpt-oss", "openai": "gpt-oss", "openai_gptoss": "gpt-oss",
    "glm4_moe": "glm45", "glm47_moe": "glm47", "qwen3_xml": "qwen3_coder", "qwen3": "qwen25",
    "hunyuan_a13b": "hunyuan", "internlm": "interns1", "nemotron": "qwen3_coder",
}  # fmt: skip
_THINKING = {
    "harmony": "gpt-oss", "openai": "gpt-oss", "openai_gptoss": "gpt-oss",
    "deepseek_v31": "deepseek-v3", "deepseek_v32": "deepseek-v3",
    "glm4_moe": "glm45", "granite": "granite_thinking_parser", "hunyuan_a13b": "hunyuan",
    "minimax_m2": "minimax", "minimax_m2_append_think": "minimax-append-think",
    "nemotron": "nemotron_3", "nemotron_v3": "nemotron_3", "basic": "qwen3", "qwen": "qwen3",
}  # fmt: skip
_UNSUPPORTED = {"granite", "granite20bfc", "granite4", "jamba", "phi4minijson", "xlam"}
"""vLLM's names of formats that SGLang does not read."""


def tool_call_parser(name: str) -> str | None:
    """SGLang's name; None for `none`. Raises ConfigError with the nearest names."""
    from sglang.srt.function_call.parser_names import TOOL_CALL_PARSER_NAMES

    if _plain(name) in _UNSUPPORTED:
        log.warning(f"TOOL_CALL_PARSER={name}: SGLang does not read this format; taken as auto")
        return "auto"
    return _sglang_name(name, TOOL_CALL_PARSER_NAMES, _CALLS, "TOOL_CALL_PARSER")


def reasoning_parser(name: str) -> str | None:
    """SGLang's name; None for `none`. Raises ConfigError with the nearest names."""
    from sglang.srt.parser.reasoning_parser_names import REASONING_PARSER_NAMES

    return _sglang_name(name, REASONING_PARSER_NAMES, _THINKING, "REASONING_PARSER")


def _sglang_name(name: str, known: list[str], others: dict[str, str], setting: str) -> str | None:
    if name in ("auto", *known):
        return name
    if name.lower() == "none":
        return None
    plain = _plain(name)
    for known_name in known:
        if _plain(known_name) == plain:
            return known_name
    for other, known_name in others.items():
        if _plain(other) == plain:
            return known_name
    near = difflib.get_close_matches(name, [*known, *others], n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"{setting}: SGLang has no parser {name!r}{hint}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(".", "")
