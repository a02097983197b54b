"""What models write when they call tools, under the grammars of strict tools.

xgrammar is the judge of what a structural tag means: its formats are its own.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.types import Tool, ToolUse
from tests.support.grammars import accepts, matcher
from tests.support.tool_formats import TOOL_SAMPLES, TOOLS, Sample, sample_id

pytestmark = pytest.mark.full
TOOLS_USED = tuple(
    Tool(name=each["function"]["name"], parameters=each["function"].get("parameters"), strict=True)
    for each in TOOLS
)
NARROWER = {("beam", "two"), ("beam", "three")}
"""One call at a time is taken of this format."""


@pytest.fixture(scope="module")
def judge() -> Any:
    import xgrammar

    tokens = [bytes([value]) for value in range(256)] + [b"<end>"]
    info = xgrammar.TokenizerInfo(tokens, stop_token_ids=[256])
    return xgrammar.GrammarCompiler(info, cache_enabled=True)


def _judged(judge: Any, tag: str, text: str) -> bool:
    import xgrammar

    matcher = xgrammar.GrammarMatcher(judge.compile_structural_tag(tag))
    return all(map(matcher.accept_token, text.encode())) and matcher.accept_token(256)


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("sample", TOOL_SAMPLES, ids=sample_id)
def test_the_grammar_of_calls_takes_what_the_models_format_allows(
    judge: Any, sample: Sample, required: bool
) -> None:
    from app.engine.sglang.output import AnswerFormat

    names = tuple(tool.name for tool in TOOLS_USED)
    use = ToolUse(tools=TOOLS_USED, allowed=names, required=required, named=False, parallel=True)
    form = AnswerFormat(tool_call_parser=sample.parser, reasoning_parser=None, use=use,
                        thinking=False, grammar=None)  # fmt: skip
    if form.grammar is None or form.grammar.kind != "structural_tag":
        assert form.grammar is None or form.grammar.kind == "json_schema"
        return
    tag = json.dumps({"type": "structural_tag", **json.loads(form.grammar.text)})
    if (sample.parser, sample.kind) not in NARROWER:
        grammar = matcher("structural_tag", form.grammar.text)
        assert accepts(grammar, sample.text) == _judged(judge, tag, sample.text)
