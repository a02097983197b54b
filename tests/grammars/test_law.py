"""The law: a schema is refused by name, or no text is taken that a validator rejects.

The schemas and instances are those of the official suite (json_schema_suite/), under two drafts,
and those that hypothesis makes. `jsonschema` is the judge of what no suite has judged.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.grammars.refused import Refused
from tests.support.grammars import accepts, matcher, walk

SUITE = Path(__file__).parent / "json_schema_suite"
FILES = sorted(SUITE.glob("draft*/*.json"))
REFUSED = json.loads((Path(__file__).parent / "refused.json").read_text())
"""Draft and file -> schemas of it that are refused. They may become fewer; then lower it here."""


def _groups(path: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for group in json.loads(path.read_text()):
        if isinstance(group["schema"], dict):  # a client's is an object
            yield group["schema"], group["tests"]


def _spellings(value: Any) -> Iterator[str]:
    yield json.dumps(value, ensure_ascii=False)
    yield json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    yield json.dumps(value)
    if isinstance(value, dict):
        yield json.dumps(dict(reversed(value.items())))
    if isinstance(value, float) and value.is_integer():
        yield json.dumps(int(value))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_instance_that_the_suite_calls_invalid_is_accepted(path: Path) -> None:
    for schema, cases in _groups(path):
        try:
            grammar = matcher("json_schema", schema)
        except Refused:
            continue
        for case in cases:
            if not case["valid"]:
                taken = [text for text in _spellings(case["data"]) if accepts(grammar, text)]
                assert not taken, (case["description"], schema)


def test_no_more_schemas_of_the_suite_are_refused_than_before() -> None:
    refused: Counter[str] = Counter()
    reasons = []
    for path in FILES:
        for schema, _ in _groups(path):
            try:
                matcher("json_schema", schema)
            except Refused as error:
                refused[f"{path.parent.name}/{path.stem}"] += 1
                reasons.append(str(error))
    assert dict(refused) == REFUSED
    unnamed = [each for each in reasons if "'" not in each and "no value" not in each]
    assert not unnamed  # each names the keyword


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_random_answer_follows_its_schema(path: Path) -> None:
    chance = random.Random(path.name)
    for schema, _ in _groups(path):
        try:
            grammar = matcher("json_schema", schema)
        except Refused:
            continue
        for _ in range(3):
            if (text := walk(grammar, chance, tokens=100)) is not None:
                judge(text, schema, _DRAFTS[path.parent.name])


_DRAFTS = {
    "draft7": jsonschema.Draft7Validator,
    "draft2020-12": jsonschema.Draft202012Validator,
}


def judge(text: str, schema: dict[str, Any], draft: Any = jsonschema.Draft202012Validator) -> None:
    """Raises ValidationError if the text is no instance of the schema."""
    value = json.loads(text)
    with suppress(re.error):  # Python's patterns do not have all that the suite's have
        draft(schema).validate(value)


# -- schemas as clients write them, and those that hypothesis makes -------------------------------

NAMES = st.sampled_from(["a", "b", "c d", 'e"', "é", "f\\n"])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(NAMES, inner, max_size=4)
    objects = st.builds(
        lambda properties, count, additional: {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:count],
            **({} if additional is None else {"additionalProperties": additional}),
        },
        properties,
        st.integers(0, 4),
        st.none() | st.booleans() | inner,
    )
    arrays = st.builds(
        lambda items, first, least, more: {
            "type": "array",
            "items": items,
            **({"prefixItems": first} if first else {}),
            "minItems": least,
            "maxItems": least + more,
        },
        inner,
        st.lists(inner, max_size=2),
        st.integers(0, 3),
        st.integers(0, 3),
    )
    together = st.builds(
        lambda word, branches, beside: {word: branches, **beside},
        st.sampled_from(["anyOf", "allOf", "oneOf"]),
        st.lists(inner, min_size=1, max_size=3),
        st.just({}) | objects | st.just({"type": ["string", "object", "null"]}),
    )
    return objects | arrays | together


_NUMBERS = st.integers(-(2**70), 2**70) | st.floats(-1e6, 1e6, allow_nan=False)
LEAVES = st.one_of(
    st.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
        st.integers(0, 4), st.integers(0, 4),
    ),
    st.builds(
        lambda kind, a, b: {"type": kind, "minimum": min(a, b), "maximum": max(a, b)},
        st.sampled_from(["integer", "number"]), _NUMBERS, _NUMBERS,
    ),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.none() | st.booleans() | st.integers() | st.text(max_size=4), min_size=1,
                 max_size=4),
    ),
    st.sampled_from([
        {"type": "boolean"}, {"type": "null"}, {}, {"type": ["integer", "null"]},
        {"type": "string", "pattern": '^a"b\\\\?$'}, {"type": "string", "pattern": "[^a-c]x|\n"},
        {"type": "string", "format": "date"}, {"type": "string", "format": "uuid"},
        {"type": "integer", "multipleOf": 7}, {"not": {"type": "string"}}, {"const": {"a": [1.5]}},
        {"type": "string", "minLength": 2, "pattern": "a*"}, {"maxProperties": 2},
        {"type": "object", "patternProperties": {"^a": {"type": "integer"}}},
        {"type": "object", "minProperties": 1, "additionalProperties": {"type": "null"}},
        {"type": "object", "required": ["zz"]}, {"$ref": "#/$defs/x", "$defs": {"x": {}}},
    ]),
)  # fmt: skip


@given(schema=st.recursive(LEAVES, _schemas, max_leaves=8), seed=st.integers(0, 2**32))
def test_a_random_answer_follows_any_schema(schema: dict[str, Any], seed: int) -> None:
    try:
        grammar = matcher("json_schema", schema)
    except Refused:
        return
    text = walk(grammar, random.Random(seed))
    if text is not None:
        judge(text, schema)
