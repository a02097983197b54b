"""What grammars cost once they are compiled: no mask and no token takes long.

The grammars are those that were found to be the worst. Either they are refused, or a limit ends the
request, or each step is short. The bound is of processor time, on one token for each byte.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from app.grammars.refused import Refused
from tests.support.grammars import BYTES, Clock, allowed, matcher

BOUND_S = 0.05
OPTIONAL = {f"property {no}": {"type": "string"} for no in range(440)}
TERMINALS = " | ".join(f"T{no}" for no in range(300))
CASES: list[tuple[str, Any]] = [
    ("json_schema", {"type": "string", "pattern": "^([a-z]+ ?){1,200}$"}),
    ("json_schema", {"type": "string", "pattern": "(([a-z]+ ?){1,30},?){1,30}"}),
    ("json_schema", {"type": "string", "pattern": "^([a-z]{1,100}-){1,100}$"}),
    ("json_schema", {"type": "string", "maxLength": 20_000}),
    ("json_schema", {"type": "object", "properties": OPTIONAL}),
    ("json_schema", {"type": "array", "minItems": 1000, "maxItems": 1000}),
    ("json_schema", {"enum": [f"value {no}" for no in range(500)]}),
    ("json_schema", {"patternProperties": {f"^{no}x{{1,9}}$": {} for no in range(64)}}),
    ("json_schema", {"anyOf": [{"properties": {f"p{no}": {"const": no}}} for no in range(200)]}),
    ("json_schema", {"type": "integer", "multipleOf": 997}),
    ("regex", "(a|aa|aaa|b|ab|ba)*c{1,500}"),
    ("regex", "(.*a.*b.*c.*d){1,20}"),
    ("lark", 'start: s\ns: s s s | s s | "a" | ""'),
    ("lark", 's: "a" s | s "a" | "a"\nstart: s s s s s'),
    ("lark", f"start: ({TERMINALS})+\n" + "\n".join(
        f"T{no}: /a{{1,{no + 1}}}b?/" for no in range(300))),
    ("lark", "start: (a{1,100} b){1,100}\na: b{1,100}\nb: /c/ | /cd/"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "grammar"), CASES)
def test_no_step_of_a_hostile_grammar_takes_long(kind: str, grammar: Any) -> None:
    try:
        answer = matcher(kind, grammar)
    except Refused:
        return
    chance, clock = random.Random(1), Clock()
    for _ in range(200):
        clock.step(answer.compute_bitmask)
        choices = [token for token in allowed(answer) if token < 256]
        if answer.is_error() or not choices:
            break
        letters = [token for token in choices if 97 <= token < 123]
        if not clock.step(answer.consume_token, chance.choice(letters or choices)):
            break
    assert clock.worst_s < BOUND_S
    if answer.is_error():  # all that it allows is the end, on which the engine ends the request
        assert allowed(answer) == [BYTES.eos_token]
