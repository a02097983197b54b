"""Rules of a client for free text, inside the JSON of a call."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.grammars.in_json import in_json
from app.grammars.refused import Refused
from tests.support.grammars import accepts, matcher, walk

PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF  // a comment
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
"""The form of edits that a coding agent asks for."""
ANSWERS = [
    '*** Begin Patch\n*** Add File: a "b"\\c.py\n+print("x\\n")\n+\té\n*** End Patch\n',
    "*** Begin Patch\n*** Update File: a.py\n@@ def f():\n-x\n+y\n z\n*** End Patch",
    "*** Begin Patch\n*** Delete File: a\n*** Update File: b\n*** Move to: c\n*** End Patch",
]


def tool(rules: str = PATCH, **style: str) -> dict[str, Any]:
    text = {"type": "string", "x-lark": rules}
    schema = {"type": "object", "properties": {"input": text}, "required": ["input"]}
    content = {"type": "json_schema", "json_schema": schema, **style}
    return {"format": {"type": "tag", "begin": "<f>", "content": content, "end": "</f>"}}


def written(rules: str, text: str) -> bool:
    """The rules take the text as JSON has it in a string."""
    grammar = matcher("lark", f"start: x_start\n{in_json(rules, 'x_')}")
    return accepts(grammar, json.dumps(text, ensure_ascii=False)[1:-1])


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_edit_is_taken_as_it_is_and_inside_json(answer: str) -> None:
    assert accepts(matcher("lark", PATCH), answer)
    assert written(PATCH, answer)
    wrong = answer.replace("***", "**")
    assert not written(PATCH, wrong)
    call = f"<f>{json.dumps({'input': answer}, ensure_ascii=False)}</f>"
    assert accepts(matcher("structural_tag", tool()), call)
    raw = f"<f><parameter=input>\n{answer}\n</parameter>\n</f>"
    assert accepts(matcher("structural_tag", tool(style="qwen_xml")), raw)


LINES = r"""
start: line{1,3} "}"?
line: ("a" | /[^a-z\n]{0,3}/ | "\"") LF
%import common.LF
"""


def test_a_random_call_holds_what_the_rules_describe() -> None:
    grammar, plain = matcher("structural_tag", tool(LINES)), matcher("lark", LINES)
    chance, found = random.Random(1), 0
    for _ in range(200):
        if (text := walk(grammar, chance, tokens=60)) is not None:
            found += 1
            assert accepts(plain, json.loads(text[3:-4])["input"])
    assert found > 20


PATTERNS = [
    "a+", r"(a|b\n)*c?", r"[^a]{1,3}", r'"[^"]*"', r"\\?\t", r"[\x00-\x20]+", ".*",
    r"(?:ab)?[ \t\n]", r"\x41\u0042[c-e]", r"(a||b)+", r"[a-z0-9]@[^@]+\.[a-z]{2,3}",
    r"a{2}b{1,}", "[]a]+", r"é|\$",
]  # fmt: skip


@given(pattern=st.sampled_from(PATTERNS), data=st.data())
def test_a_pattern_takes_the_escaped_text_where_it_takes_the_text(pattern: str, data: Any) -> None:
    text = data.draw(st.from_regex(re.compile(pattern), fullmatch=True) | st.text(max_size=4))
    expected = re.fullmatch(pattern, text) is not None
    assert written(f"start: /{pattern}/", text) is expected


@pytest.mark.parametrize(
    "rules",
    [
        'start: "a" <[1]>', "start: %json {}", '%ignore " "\nstart: "a"', 'start: "a".."z"',
        "start: A\nA: B & ~C", "start: @other", "start: /a/i", r"start: /\ba/", "start: /^a/",
        "start: /(?=a)b/", r"start: /(a)\1/", r"start: /\p{L}/", "%import common.CPP_COMMENT",
        r'start: "\q"',
    ],
)  # fmt: skip
def test_what_has_no_such_form_is_refused(rules: str) -> None:
    with pytest.raises(Refused):
        in_json(rules, "x_")
