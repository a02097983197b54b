# ruff: noqa: RUF001  (the markers of some models are written with look-alike characters)
"""What models write when they call tools: samples for every format of SGLang 0.5.23.

Each format is one writer (calls -> text) and the markers that can start a call; the samples are the
same few answers in every format. Expected is what the model meant: text beside the calls as the
one-shot parser gives it (some strip it, some keep it), arguments as they were written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Sample:
    parser: str
    text: str
    content: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    kind: str = ""


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The forecast for a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "integer"},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Full-text search",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string"},
                    "filters": {
                        "type": "object",
                        "properties": {
                            "tags": {"type": "array", "items": {"type": "string"}},
                            "range": {
                                "type": "object",
                                "properties": {
                                    "since": {"type": "integer"},
                                    "open": {"type": "boolean"},
                                },
                            },
                        },
                    },
                    "limit": {"type": "integer"},
                },
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "ping",
            "description": "Is anyone there",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]

Arguments = dict[str, Any]
Call = tuple[str, Arguments]
Write = Callable[[Sequence[Call]], str]

WEATHER: Call = ("get_weather", {"city": "Lisbon", "days": 3})
SEARCH: Call = (
    "search",
    {
        "query": "tide tables",
        "filters": {
            "tags": ["harbour", "spring tide"],
            "range": {"since": 2024, "open": True},
        },
        "limit": 5,
    },
)
PLAIN: Call = ("get_weather", {"city": "Łódź", "unit": "celsius"})
QUOTED: Call = ("get_weather", {"city": 'Zürich "Old Town" \\ C:\\temp\nnorth 🌦️ side', "days": 2})
HARD: Call = (
    "get_weather",
    {"city": 'a < b, <i>"x"</i> } ] {y} ), \\ \\n\nend 🌦️', "unit": "celsius"},
)
PING: Call = ("ping", {})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _raw(value: Any) -> str:
    """Strings bare, everything else as JSON: how the XML-like formats write a value."""
    return value if isinstance(value, str) else _json(value)


def _named(name: str, arguments: Arguments, key: str = "arguments") -> str:
    return _json({"name": name, key: arguments})


def _each(one: Callable[[str, Arguments], str], between: str = "") -> Write:
    return lambda calls: between.join(one(name, arguments) for name, arguments in calls)


def _within(begin: str, write: Write, end: str) -> Write:
    return lambda calls: begin + write(calls) + end


def _pairs(one: str, between: str = "") -> Callable[[Arguments], str]:
    return lambda arguments: between.join(
        one.replace("KEY", key).replace("VALUE", _raw(value)) for key, value in arguments.items()
    )


def _tagged(begin: str, pair: str, end: str, between: str = "") -> Callable[[str, Arguments], str]:
    pairs = _pairs(pair)
    return lambda name, arguments: begin.replace("NAME", name) + pairs(arguments) + end


def _deepseek3(name: str, arguments: Arguments) -> str:
    return (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{_json(arguments)}\n```"
        "<｜tool▁call▁end｜>"
    )


def _dsml(block: str, invoke: str, parameter: str) -> Write:
    def one(name: str, arguments: Arguments) -> str:
        return (
            f'<｜DSML｜{invoke} name="{name}">\n'
            + "".join(
                f'<｜DSML｜{parameter} name="{key}" string="{_is_text(value)}">'
                f"{_raw(value)}</｜DSML｜{parameter}>\n"
                for key, value in arguments.items()
            )
            + f"</｜DSML｜{invoke}>\n"
        )

    return _within(f"<｜DSML｜{block}>\n", _each(one), f"</｜DSML｜{block}>")


def _is_text(value: Any) -> str:
    return "true" if isinstance(value, str) else "false"


def _dsml_json(block: str) -> Write:
    def one(name: str, arguments: Arguments) -> str:
        return f'<｜DSML｜invoke name="{name}">\n{_json(arguments)}\n</｜DSML｜invoke>\n'

    return _within(f"<｜DSML｜{block}>\n", _each(one), f"</｜DSML｜{block}>")


def _gigachat35(name: str, arguments: Arguments) -> str:
    return (
        f'<｜GCML｜invoke name="{name}">\n'
        + "".join(
            f'<｜GCML｜parameter name="{key}" string="{_is_text(value)}">'
            f"{_raw(value)}</｜GCML｜parameter>\n"
            for key, value in arguments.items()
        )
        + "</｜GCML｜invoke>\n"
    )


def _cohere(calls: Sequence[Call]) -> str:
    items = [
        f"    {_json({'tool_call_id': str(i), 'tool_name': name, 'parameters': arguments})}"
        for i, (name, arguments) in enumerate(calls)
    ]
    return "<|START_ACTION|>[\n" + ",\n".join(items) + "\n]<|END_ACTION|>"


def _beam(name: str, arguments: Arguments) -> str:
    return f" to={name}<|channel|>analysis <|constrain|>xml<|message|>" + "".join(
        f'<rfl:parameter name="{key}">\n{_raw(value)}\n</rfl:parameter>'
        for key, value in arguments.items()
    )


def _gemma(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_gemma(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_gemma, value)) + "]"
    return _json(value)


def _harmony(name: str, arguments: Arguments) -> str:
    return (
        f"<|start|>assistant<|channel|>commentary to=functions.{name} "
        f"<|constrain|>json<|message|>{_json(arguments)}<|call|>"
    )


def _kimi2(calls: Sequence[Call]) -> str:
    return "".join(
        f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>"
        f"{_json(arguments)}<|tool_call_end|>"
        for i, (name, arguments) in enumerate(calls)
    )


_KINDS = {str: "string", bool: "boolean", int: "number", dict: "object", list: "array"}


def _kimi3(calls: Sequence[Call]) -> str:
    return "".join(
        f'<|open|>call tool="{name}" index="{i}"<|sep|>'
        + "".join(
            f'<|open|>argument key="{key}" type="{_KINDS[type(value)]}"<|sep|>'
            f"{_raw(value)}<|close|>argument<|sep|>"
            for key, value in arguments.items()
        )
        + "<|close|>call<|sep|>"
        for i, (name, arguments) in enumerate(calls, 1)
    )


def _python(name: str, arguments: Arguments) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


_NS = "]<]minimax[>["


def _minimax3(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"{_NS}<{k}>{_minimax3(v)}{_NS}</{k}>" for k, v in value.items())
    if isinstance(value, list):
        return "".join(f"{_NS}<item>{_minimax3(item)}{_NS}</item>" for item in value)
    return _raw(value)


def _muse(name: str, arguments: Arguments) -> str:
    parameters = "".join(
        f'<atem:parameter name="{key}">{_raw(value)}</atem:parameter>\n'
        for key, value in arguments.items()
    )
    return (
        f" to=functions.{name}<|message|><atem:function_calls>\n"
        f'<atem:invoke name="{name}">\n{parameters}</atem:invoke>\n</atem:function_calls>'
    )


def inkling(name: str, arguments: Arguments) -> str:
    body = _json({"name": name, "args": arguments})
    return f"<|message_model|>{name}<|content_invoke_tool_json|>{body}<|end_message|>"


def _same(text: str) -> str:
    return text


@dataclass(frozen=True)
class Format:
    names: tuple[str, ...]  # the same class under each of them
    write: Write
    starts: tuple[str, ...]  # what can start a call; text before may be passed on without waiting
    beside: Callable[[str], str] = _same  # what the one-shot parser makes of the text before
    say: Callable[[str], str] = _same  # how the format writes text before a call
    many: bool = True  # several calls in one answer
    half: str = ""  # a beginning of a marker for plain text; else all but its last character


_QWEN = _each(lambda n, a: f"<tool_call>\n{_named(n, a)}\n</tool_call>", "\n")
_ARG = "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n"
_GLM45 = _each(_tagged("<tool_call>NAME\n", _ARG, "</tool_call>"), "\n")
_GLM47 = "<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>"

FORMATS: tuple[Format, ...] = (
    Format(
        ("apertus2509",),
        lambda calls: f"<|tools_prefix|>{_json([{n: a} for n, a in calls])}<|tools_suffix|>",
        ("<|tools_prefix|>[",),
        str.strip,
    ),
    Format(
        ("beam",),
        _within("", _each(_beam, "<|end|><|start|>assistant"), "<|call|>"),
        (" to=",),  # with a name and a channel; text is what the reasoning parser has unwrapped
    ),
    Format(("cohere_command4",), _cohere, ("<|START_ACTION|>",)),
    Format(
        ("deepseekv3",),
        _within("<｜tool▁calls▁begin｜>", _each(_deepseek3, "\n"), "<｜tool▁calls▁end｜>"),
        ("<｜tool▁calls▁begin｜>",),
        str.strip,
    ),
    Format(
        ("deepseekv31",),
        _within(
            "<｜tool▁calls▁begin｜>",
            _each(
                lambda n, a: f"<｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{_json(a)}<｜tool▁call▁end｜>"
            ),
            "<｜tool▁calls▁end｜>",
        ),
        ("<｜tool▁calls▁begin｜>",),
        str.strip,
    ),
    Format(
        ("deepseekv32",),
        _dsml("function_calls", "invoke", "parameter"),
        ("<｜DSML｜function_calls>", "<｜DSML｜invoke"),
        lambda text: text.removesuffix("\n\n"),
    ),
    Format(
        ("deepseekv32",),  # arguments as one JSON object
        _dsml_json("function_calls"),
        ("<｜DSML｜function_calls>", "<｜DSML｜invoke"),
        lambda text: text.removesuffix("\n\n"),
    ),
    Format(
        ("deepseekv4",),
        _dsml("tool_calls", "invoke", "parameter"),
        ("<｜DSML｜tool_calls>", "<｜DSML｜invoke"),
        lambda text: text.removesuffix("\n\n"),
    ),
    Format(
        ("deepseekv41",),
        _dsml(" calls", " invoke", " parameter"),
        ("<｜DSML｜ calls>", "<｜DSML｜ invoke"),
        lambda text: text.removesuffix("\n\n"),
    ),
    Format(
        ("dots",),
        _within(
            "<dots_function_call>\n",
            _each(
                _tagged(
                    '<invoke name="NAME">\n',
                    '<parameter name="KEY">VALUE</parameter>\n',
                    "</invoke>\n",
                )
            ),
            "</dots_function_call>",
        ),
        ("<dots_function_call>",),
        str.strip,
    ),
    Format(
        ("dots",),  # the JSON fallback
        _each(lambda n, a: f"<dots_function_call>{_named(n, a)}</dots_function_call>", "\n"),
        ("<dots_function_call>",),
        str.strip,
    ),
    Format(("glm", "glm45"), _GLM45, ("<tool_call>",), str.strip),
    Format(
        ("glm47",),
        _each(_tagged("<tool_call>NAME", _GLM47, "</tool_call>")),
        ("<tool_call>",),
        str.strip,
    ),
    Format(
        ("gpt-oss",),
        _each(_harmony),
        ("<|start|>assistant<|channel|>commentary to=", "<|channel|>commentary to="),
        str.strip,
        say=lambda text: f"<|channel|>commentary<|message|>{text}<|end|>",
        half="<|start|",
    ),
    Format(
        ("k2_horizon",),
        _within(
            "<ifm|tool_calls>\n",
            _each(
                _tagged(
                    "<ifm|tool_call>NAME\n",
                    "<ifm|arg_key>KEY</ifm|arg_key>\n<ifm|arg_value>VALUE</ifm|arg_value>\n",
                    "</ifm|tool_call>\n",
                )
            ),
            "</ifm|tool_calls>",
        ),
        ("<ifm|tool_calls>", "<ifm|tool_call>"),
    ),
    Format(
        ("k2_horizon",),  # calls as JSON
        _within(
            "<ifm|tool_calls>",
            _each(lambda n, a: f"<ifm|tool_call>{_named(n, a)}</ifm|tool_call>"),
            "</ifm|tool_calls>",
        ),
        ("<ifm|tool_calls>", "<ifm|tool_call>"),
    ),
    Format(
        ("kimi_k2",),
        _within("<|tool_calls_section_begin|>", _kimi2, "<|tool_calls_section_end|>"),
        ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    ),
    Format(
        ("kimi_k3",),
        _within("<|open|>tools<|sep|>", _kimi3, "<|close|>tools<|sep|><|close|>message<|sep|>"),
        ("<|open|>tools<|sep|>",),
        say=lambda text: f"<|open|>response<|sep|>{text}<|close|>response<|sep|>",
    ),
    Format(
        ("lfm2",),
        _within("<|tool_call_start|>[", _each(_python, ", "), "]<|tool_call_end|>"),
        ("<|tool_call_start|>",),
        str.strip,
    ),
    Format(
        ("lfm2",),  # calls as JSON
        _within("<|tool_call_start|>[", _each(_named, ", "), "]<|tool_call_end|>"),
        ("<|tool_call_start|>",),
        str.strip,
    ),
    Format(("ling3",), _GLM45, ("<tool_call>",), str.strip),
    Format(
        ("llama3",),
        _within("<|python_tag|>", _each(lambda n, a: _named(n, a, "parameters"), ";"), ""),
        ("<|python_tag|>", "{"),  # the brace only as the very first character
    ),
    Format(
        ("mimo",),
        _each(
            _tagged(
                "<tool_call>\n<function=NAME>\n",
                "<parameter=KEY>VALUE</parameter>\n",
                "</function>\n</tool_call>",
            ),
            "\n",
        ),
        ("<tool_call>",),
    ),
    Format(
        ("minicpm5",),
        _each(
            _tagged(
                '<function name="NAME">',
                '<param name="KEY"><![CDATA[VALUE]]></param>',
                "</function>",
            )  # whitespace between calls would be content
        ),
        ("<function",),
    ),
    Format(
        ("mistral",),
        lambda calls: f"[TOOL_CALLS] {_json([{'name': n, 'arguments': a} for n, a in calls])}",
        ("[TOOL_CALLS",),
        str.strip,
    ),
    Format(
        ("mistral",),  # the compact form of newer models
        _each(lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{_json(a)}"),
        ("[TOOL_CALLS",),
        str.strip,
    ),
    Format(
        ("muse",),
        _within("", _each(_muse, "<|eom|><|start|>assistant"), "<|eot|>"),
        ("<atem:function_calls>", "<atem:invoke"),  # in a channel whose header is ` to=<tool>`
        say=lambda text: f" to=user<|message|>{text}<|eom|><|start|>assistant",
    ),
    Format(("poolside_v1",), _GLM45, ("<tool_call>",)),
    Format(
        ("pythonic",),
        _within("[", _each(_python, ", "), "]"),
        ("[",),
        str.lstrip,
        half="[see (x",
    ),
    Format(("qwen", "qwen25"), _QWEN, ("<tool_call>\n",), str.strip),
    Format(
        ("qwen3_coder", "step3p5", "nanbeige"),
        _each(
            _tagged(
                "<tool_call>\n<function=NAME>\n",
                "<parameter=KEY>\nVALUE\n</parameter>\n",
                "</function>\n</tool_call>",
            ),
            "\n",
        ),
        ("<tool_call>",),
    ),
    Format(
        ("spark25",),
        _each(
            _tagged(
                "<tool_call>NAME\n",
                "<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>\n",
                "</tool_call>",
            )
        ),
        ("<tool_call>",),
    ),
    Format(
        ("step3",),
        _within(
            "<｜tool_calls_begin｜>\n",
            _each(
                _tagged(
                    '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="NAME">\n',
                    '<steptml:parameter name="KEY">VALUE</steptml:parameter>\n',
                    "</steptml:invoke><｜tool_call_end｜>\n",
                )
            ),
            "<｜tool_calls_end｜>",
        ),
        ("<｜tool_calls_begin｜>",),
    ),
    Format(
        ("minimax-m2",),
        _within(
            "<minimax:tool_call>\n",
            _each(
                _tagged(
                    '<invoke name="NAME">\n',
                    '<parameter name="KEY">VALUE</parameter>\n',
                    "</invoke>\n",
                )
            ),
            "</minimax:tool_call>",
        ),
        ("<minimax:tool_call>",),
    ),
    Format(
        ("minimax-m3",),
        _within(
            f"{_NS}<tool_call>\n",
            _each(lambda n, a: f'{_NS}<invoke name="{n}">{_minimax3(a)}{_NS}</invoke>\n'),
            f"{_NS}</tool_call>",
        ),
        (f"{_NS}<tool_call>",),
    ),
    Format(("trinity",), _QWEN, ("<tool_call>\n",), str.strip),
    Format(
        ("interns1",),
        _each(
            lambda n, a: f"<|action_start|> <|plugin|>\n{_named(n, a, 'parameters')}<|action_end|>",
            "\n",
        ),
        ("<|action_start|> <|plugin|>",),
        str.strip,
    ),
    Format(
        ("hermes",),
        _each(lambda n, a: f"<tool_call>{_named(n, a)}</tool_call>", "\n"),
        ("<tool_call>",),
        str.strip,
    ),
    Format(
        ("hunyuan",),
        _within(
            "<tool_calls>\n",
            _each(
                _tagged(
                    "<tool_call>NAME<tool_sep>\n",
                    _ARG,
                    "</tool_call>\n",
                )
            ),
            "</tool_calls>",
        ),
        ("<tool_calls>",),
        str.strip,
    ),
    Format(
        ("gigachat3",),
        _each(lambda n, a: f"<|function_call|>{_named(n, a)}"),
        ("<|message_sep|>", "<|function_call|>", "function call<|role_sep|>\n"),
        many=False,
    ),
    Format(
        ("gigachat3",),  # as a message of the role "function call"
        _each(lambda n, a: f"<|message_sep|>\n\nfunction call<|role_sep|>\n{_named(n, a)}</s>"),
        ("<|message_sep|>", "<|function_call|>", "function call<|role_sep|>\n"),
        many=False,
    ),
    Format(
        ("gigachat35",),
        _within("<｜GCML｜tool_calls>\n", _each(_gigachat35), "</｜GCML｜tool_calls>"),
        ("<｜GCML｜tool_calls>",),
        lambda text: text.rstrip("\n"),
    ),
    Format(
        ("gemma4",),
        _each(lambda n, a: f"<|tool_call>call:{n}{_gemma(a)}<tool_call|>"),
        ("<|tool_call>",),
    ),
    Format(
        ("inkling",),
        _each(inkling),
        ("<|message_model|>", "<|content_invoke_tool_json|>", "<|content_invoke_tool_text|>"),
    ),
    Format(
        ("iquest_q1",),
        _each(_tagged("<iquest_tool_call>NAME", _GLM47, "</iquest_tool_call>")),
        ("<iquest_tool_call>",),
    ),
    # response_template: the format is the tokenizer's own (`tokenizer.response_template`), and
    # without one the parser cannot be built; `beam` is the same parser with a fixed template.
)


def _samples(form: Format, parser: str) -> list[Sample]:
    """The same answers in every format."""

    def answer(kind: str, before: str, *calls: Call) -> Sample:
        said = form.say(before) if before else ""
        return Sample(parser, said + form.write(calls), form.beside(before), calls, kind)

    half = form.half or form.starts[0][:-1]
    plain = (
        f"No call: {half} is half a marker, 1 < 2, [3, x], {{y: 4}} and the end is "
        f"{half[: len(half) // 2 + 1]}"
    )
    text = "Nothing to look up. Good-bye!\n"
    samples = [
        answer("one", "I will look that up.\n\n", WEATHER),
        answer("ping", "Knocking once:", PING),
        Sample(parser, plain, plain, kind="none"),
        Sample(parser, text, text, kind="text"),
    ]
    if form.many:
        samples += [
            answer("two", "", SEARCH, PLAIN),
            answer("three", "", PING, WEATHER, PING),
            answer("quoted", "Both, then:", SEARCH, QUOTED),
            answer("hard", "Both, then:", SEARCH, HARD),
        ]
    else:
        samples += [
            answer("nested", "", SEARCH),
            answer("quoted", "This one:", QUOTED),
            answer("hard", "This one:", HARD),
        ]
    return samples


TOOL_SAMPLES: tuple[Sample, ...] = (
    *(sample for form in FORMATS for parser in form.names for sample in _samples(form, parser)),
    # Answers without a call as the model frames them, which only comes here when no reasoning
    # parser has unwrapped them: the one-shot parser hands the frame on, streaming does not.
    Sample("gpt-oss", "<|channel|>final<|message|>Good-bye!<|return|>", "Good-bye!", kind="framed"),
    Sample("muse", " to=user<|message|>Good-bye!<|eot|>", "Good-bye!", kind="framed"),
)

KNOWN = {"step3-hard": "an argument with `<` in it is lost"}
"""Samples that SGLang's one-shot parser reads wrong, too."""


def sample_id(sample: Any) -> str:
    return f"{sample.parser}-{getattr(sample, 'kind', '')}"


def with_known(samples: Sequence[Sample]) -> list[Any]:
    """Parameters of a test; one that is known to fail must fail until it leaves `KNOWN`."""
    return [
        pytest.param(
            sample,
            id=sample_id(sample),
            marks=[pytest.mark.xfail(strict=True, reason=KNOWN[sample_id(sample)])]
            if sample_id(sample) in KNOWN
            else [],
        )
        for sample in samples
    ]
