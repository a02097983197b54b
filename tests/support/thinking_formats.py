"""What models write when they think: samples for every reasoning format of SGLang 0.5.23."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.tool_formats import inkling


@dataclass(frozen=True)
class ReasoningSample:
    parser: str
    text: str
    reasoning: str
    content: str
    forced: bool = False  # the chat template already opened the thinking


THOUGHT = "Is 1 < 2? The note says <t and [TH; {yes}.\nSo it is."


ANSWER = "Yes: 1 < 2, </t is no tag."


def _thinking(
    parsers: Sequence[str],
    begin: str,
    end: str,
    *,
    tool: str = "",  # a call that opens without closing the thinking first
    always: bool = False,  # thinks from the first character on, whatever it writes
    forced: bool = True,  # honours force_reasoning
    kept: str = "\n\n",  # the newlines before the answer, where they are content
    unclosed: tuple[str, str] = (THOUGHT, ""),
) -> list[ReasoningSample]:
    samples = []
    for parser in parsers:
        samples += [
            ReasoningSample(parser, f"{begin}{THOUGHT}{end}{ANSWER}", THOUGHT, ANSWER),
            ReasoningSample(
                parser, f"{begin}{THOUGHT}{end}\n\n{ANSWER}", THOUGHT, f"{kept}{ANSWER}"
            ),
            ReasoningSample(parser, f"{begin}{end}{ANSWER}", "", ANSWER),
        ]
        if forced:
            samples += [
                ReasoningSample(parser, f"{THOUGHT}{end}{ANSWER}", THOUGHT, ANSWER, forced=True),
                ReasoningSample(parser, THOUGHT, *unclosed, forced=True),
            ]
        if not always:
            half = begin[: min(len(begin) // 2 + 1, 6)]
            samples += [
                ReasoningSample(parser, f"{ANSWER} {half}", "", f"{ANSWER} {half}"),
                ReasoningSample(parser, half, "", half),
            ]
        if tool:
            text = f"{begin}{THOUGHT}\n{tool}x"
            samples.append(ReasoningSample(parser, text, f"{THOUGHT}\n", f"{tool}x"))
    return samples


_HARMONY_THOUGHT = f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"


_HARMONY_CALL = (
    '<|start|>assistant<|channel|>commentary to=functions.ping <|constrain|>json<|message|>{"a": 1}'
    "<|call|>"
)


_KIMI3_ANSWER = "<|open|>response<|sep|>{}<|close|>response<|sep|><|close|>message<|sep|>"


REASONING_SAMPLES: tuple[ReasoningSample, ...] = (
    *_thinking(
        ("deepseek-r1", "step3", "step3p5", "gigachat35", "iquest_q1"),
        "<think>",
        "</think>",
        always=True,
    ),
    *_thinking(
        ("qwen3-thinking", "minimax"), "<think>", "</think>", tool="<tool_call>", always=True
    ),
    *_thinking(
        (
            "qwen3",
            "deepseek-v3",
            "dots",
            "mimo",
            "poolside_v1",
            "nanbeige",
            "interns1",
            "glm45",
            "nemotron_3",
        ),
        "<think>",
        "</think>",
        tool="<tool_call>",
    ),
    *_thinking(("deepseek-v4", "deepseek-v41"), "<think>", "</think>"),
    *_thinking(("hunyuan",), "<think>", "</think>", tool="<tool_calls>"),
    *_thinking(("kimi_k2",), "<think>", "</think>", tool="<|tool_calls_section_begin|>"),
    *_thinking(("kimi",), "◁think▷", "◁/think▷", forced=False),
    *_thinking(
        ("k2_horizon",), "<ifm|think>", "</ifm|think>", tool="<ifm|tool_calls>", always=True
    ),
    *_thinking(("mistral",), "[THINK]", "[/THINK]"),
    *_thinking(("minimax-m3",), "<mm:think>", "</mm:think>"),
    *_thinking(("gemma4",), "<|channel>thought\n", "<channel|>"),
    *_thinking(("apertus2509",), "<|inner_prefix|>", "<|inner_suffix|>", forced=False),
    # ling3: one-shot takes thinking that is never closed for the answer; a stream cannot
    *_thinking(("ling3",), "<think>", "</think>", tool="<tool_call>", unclosed=(THOUGHT, "")),
    # granite: the newlines after the closing tag belong to the template
    *_thinking(("granite_thinking_parser",), "<think>", "</think>", tool="<tool_call>", kept=""),
    # minimax-append-think: everything is content, the opening tag the template wrote put back
    ReasoningSample(
        "minimax-append-think",
        f"{THOUGHT}</think>{ANSWER}",
        "",
        f"<think>{THOUGHT}</think>{ANSWER}",
    ),
    ReasoningSample(
        "cohere_command4",
        f"{THOUGHT}<|END_THINKING|><|START_TEXT|>{ANSWER}<|END_TEXT|>",
        THOUGHT,
        ANSWER,
        forced=True,
    ),
    ReasoningSample(
        "cohere_command4",
        f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_TEXT|>{ANSWER}<|END_TEXT|>",
        THOUGHT,
        ANSWER,
    ),
    ReasoningSample(
        "cohere_command4",
        f"{THOUGHT}<|END_THINKING|><|START_ACTION|>[]<|END_ACTION|>",
        THOUGHT,
        "<|START_ACTION|>[]<|END_ACTION|>",
        forced=True,
    ),
    ReasoningSample("cohere_command4", f"<|START_TEXT|>{ANSWER}<|END_TEXT|>", "", ANSWER),
    ReasoningSample("cohere_command4", THOUGHT, THOUGHT, "", forced=True),
    ReasoningSample(
        "gpt-oss",
        f"{_HARMONY_THOUGHT}<|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        THOUGHT,
        ANSWER,
        forced=True,
    ),
    ReasoningSample(
        "gpt-oss",
        f"{_HARMONY_THOUGHT}<|start|>assistant<|channel|>final<|message|>{ANSWER}",
        THOUGHT,
        ANSWER,
        forced=True,
    ),
    ReasoningSample(
        "gpt-oss", f"<|channel|>final<|message|>{ANSWER}<|return|>", "", ANSWER, forced=True
    ),
    ReasoningSample(
        "gpt-oss", f"{_HARMONY_THOUGHT}{_HARMONY_CALL}", THOUGHT, _HARMONY_CALL, forced=True
    ),
    ReasoningSample(
        "gpt-oss",
        f"{_HARMONY_THOUGHT}<|start|>assistant<|channel|>commentary<|message|>{ANSWER}<|end|>"
        f"{_HARMONY_CALL}",
        THOUGHT,
        f"{ANSWER}{_HARMONY_CALL}",
        forced=True,
    ),
    ReasoningSample(
        "gpt-oss", f"<|channel|>analysis<|message|>{THOUGHT}", THOUGHT, "", forced=True
    ),
    ReasoningSample(
        "kimi_k3",
        f"<|open|>think<|sep|>{THOUGHT}<|close|>think<|sep|>{_KIMI3_ANSWER.format(ANSWER)}",
        THOUGHT,
        ANSWER,
    ),
    ReasoningSample(
        "kimi_k3",
        f"{THOUGHT}<|close|>think<|sep|>{_KIMI3_ANSWER.format(ANSWER)}",
        THOUGHT,
        ANSWER,
        forced=True,
    ),
    ReasoningSample(
        "kimi_k3",
        f"{THOUGHT}<|close|>think<|sep|><|open|>tools<|sep|>x<|close|>tools<|sep|>",
        THOUGHT,
        "<|open|>tools<|sep|>x<|close|>tools<|sep|>",
        forced=True,
    ),
    ReasoningSample("kimi_k3", THOUGHT, THOUGHT, "", forced=True),
    ReasoningSample(
        "muse",
        f" to=self<|message|>{THOUGHT}<|eom|><|start|>assistant to=user<|message|>{ANSWER}<|eot|>",
        THOUGHT,
        ANSWER,
    ),
    ReasoningSample("muse", f" to=user<|message|>{ANSWER}<|eot|>", "", ANSWER),
    ReasoningSample("muse", f" to=self<|message|>{THOUGHT}", THOUGHT, ""),
    ReasoningSample(
        "muse",
        f" to=self<|message|>{THOUGHT}<|eom|><|start|>assistant to=ping<|message|>"
        '<atem:invoke name="ping"></atem:invoke><|eot|>',
        THOUGHT,
        '<|start|>assistant to=ping<|message|><atem:invoke name="ping"></atem:invoke><|eot|>',
    ),
    ReasoningSample(
        "inkling",
        f"<|message_model|><|content_thinking|>{THOUGHT}<|end_message|>"
        f"<|message_model|><|content_text|>{ANSWER}<|end_message|><|content_model_end_sampling|>",
        THOUGHT,
        ANSWER,
    ),
    ReasoningSample(
        "inkling",
        f"<|content_thinking|>{THOUGHT}<|end_message|>{inkling('ping', {})}",
        THOUGHT,
        inkling("ping", {}),
    ),
    ReasoningSample("inkling", f"<|content_text|>{ANSWER}<|end_message|>", "", ANSWER),
    ReasoningSample(
        "beam",
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
        f"<|channel|>final<|message|>{ANSWER}<|return|>",
        THOUGHT,
        ANSWER,
    ),
    ReasoningSample("beam", f"<|channel|>final<|message|>{ANSWER}<|return|>", "", ANSWER),
    ReasoningSample("beam", f"<|channel|>analysis<|message|>{THOUGHT}", THOUGHT, ""),
    # response_template: as for tools, nothing without a tokenizer's template
)
