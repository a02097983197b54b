"""Grammars that are no schema: choices, patterns, rules of clients, forms of calls."""

from __future__ import annotations

from typing import Any

import pytest

from app.grammars.lark import unknown_format
from app.grammars.refused import Refused
from tests.support.grammars import accepts, matcher

SCHEMA = {"type": "json_schema", "json_schema": {"type": "integer"}}


def _tag(name: str) -> dict[str, Any]:
    return {"type": "tag", "begin": f"<{name}>", "content": SCHEMA, "end": "</>"}


def _separated(**options: Any) -> dict[str, Any]:
    return {"type": "tags_with_separator", "separator": ";", "tags": [_tag("a"), _tag("b")],
            **options}  # fmt: skip


def _triggered(**options: Any) -> dict[str, Any]:
    return {"type": "triggered_tags", "triggers": ["<"], "tags": [_tag("a"), _tag("b")], **options}


@pytest.mark.parametrize(
    ("format", "right", "wrong"),
    [
        ({"type": "const_string", "value": 'a"\n'}, ['a"\n'], ["a"]),
        (SCHEMA, ["1"], ["a"]),
        ({"type": "regex", "pattern": "a/b+"}, ["a/bb"], ["a/"]),
        ({"type": "any_text"}, ["", "a\nb"], []),
        ({"type": "any_text", "excludes": ["<", "b+"]}, ["", "ab"], ["a<", "b+"]),
        ({"type": "sequence", "elements": [{"type": "const_string", "value": "x"}, SCHEMA]},
         ["x1"], ["1", "x"]),
        ({"type": "or", "elements": [{"type": "const_string", "value": "x"}, SCHEMA]},
         ["x", "1"], ["x1"]),
        ({"type": "optional", "content": SCHEMA}, ["", "1"], ["a"]),
        ({"type": "star", "content": _tag("a")}, ["", "<a>1</><a>2</>"], ["<a>"]),
        ({"type": "plus", "content": _tag("a")}, ["<a>1</>"], [""]),
        ({**_tag("a"), "end": ["</>", "."]}, ["<a>1</>", "<a>1."], ["<a>1"]),
        ({**_tag("a"), "content": {"type": "any_text"}}, ["<a>b<c</>"], ["<a>b", "<a></>b"]),
        (_separated(), ["", "<a>1</>", "<b>1</>;<a>2</>"], ["<a>1</>;", ";"]),
        (_separated(at_least_one=True), ["<a>1</>;<a>1</>"], [""]),
        (_separated(at_least_one=True, stop_after_first=True), ["<a>1</>"], ["<a>1</>;<a>1</>"]),
        (_triggered(), ["", "hi", "hi <a>1</> and <b>2</>!"], ["<", "<c>", "a <a>x</>"]),
        (_triggered(stop_after_first=True), ["hi", "hi <a>1</>"], ["<a>1</> <a>1</>"]),
        (_triggered(at_least_one=True), ["<a>1</> x", "<a>1</> <b>1</>"], ["", "x <a>1</>"]),
        (_triggered(at_least_one=True, stop_after_first=True), ["<a>1</>"], ["<a>1</>x", ""]),
    ],
)  # fmt: skip
def test_a_structural_tag_means_what_xgrammar_means_by_it(
    format: Any, right: list[str], wrong: list[str]
) -> None:
    assert unknown_format(format) is None
    grammar = matcher("structural_tag", {"type": "structural_tag", "format": format})
    for text in right:
        assert accepts(grammar, text), text
    for text in wrong:
        assert not accepts(grammar, text), text


@pytest.mark.parametrize(
    ("format", "named"),
    [
        ({}, "type 'None'"),
        ({"type": "token", "token": 1}, "type 'token'"),
        ({"type": "json_schema", "style": "kimi_xml", "json_schema": {}}, "type 'json_schema'"),
        ({"type": "json_schema"}, "'json_schema'"),
        ({"type": "json_schema", "json_schema": {"not": {}}}, "'not' at #"),
        ({"type": "const_string"}, "'value'"),
        ({"type": "sequence", "elements": 3}, "'elements'"),
        ({"type": "triggered_tags", "triggers": ["x"], "tags": [_tag("a")]}, "triggers"),
        ({**_tag("a"), "end": 3}, "'end'"),
        (3, "'format'"),
    ],
)
def test_what_a_structural_tag_cannot_mean_is_refused_by_name(format: Any, named: str) -> None:
    with pytest.raises(Refused) as refused:
        matcher("structural_tag", {"type": "structural_tag", "format": format})
    assert named in str(refused.value)


def test_a_marker_that_is_a_special_token_is_that_token() -> None:
    format = {**_tag("a"), "end": "<|end|>"}
    grammar = matcher(
        "structural_tag", {"type": "structural_tag", "format": format}, {"<|end|>": 257}
    )
    assert grammar.consume_tokens(list(b"<a>1"))
    assert not accepts(grammar, "<|end|>")
    assert grammar.consume_token(257)
    assert grammar.is_accepting()


def test_a_choice_is_one_of_its_texts() -> None:
    grammar = matcher("choice", ["é", 'b"\n', "\u2028", "\x01"])
    for text in ("é", 'b"\n', "\u2028", "\x01"):
        assert accepts(grammar, text)
    assert not accepts(grammar, "e")


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        ("^ab+$", "abb", "xab"),
        (r"a\$", "a$", "a"),
        ("a|b", "b", "ab"),
        ("a/b\n", "a/b\n", "a/b"),
        (r"\d{2}", "12", "1"),
        ("(?i)ab", "AB", "a"),
    ],
)
def test_a_pattern_matches_the_whole_answer(pattern: str, right: str, wrong: str) -> None:
    grammar = matcher("regex", pattern)
    assert accepts(grammar, right)
    assert not accepts(grammar, wrong)


@pytest.mark.parametrize(
    ("kind", "rules", "right", "wrong"),
    [
        ("ebnf", 'root ::= "zz" [a-c]+ ("x" | "é")', "zzaé", "zz"),
        ("ebnf", 'root ::= "\\u00e9" item*\nitem ::= "<" [a-z]+ ">"', "é<a><b>", "é<"),
        ("ebnf", 'start: "a" B\nB: /[0-9]+/', "a12", "a"),
        ("lark", 'start: "<b>" /<[^>]*>/ // %json\n', "<b><x>", "<b>"),
        ("lark", '%ignore " "\nstart: "a" "b"', "a  b", "a"),
    ],
)
def test_rules_of_a_client_are_enforced(kind: str, rules: str, right: str, wrong: str) -> None:
    grammar = matcher(kind, rules)
    assert accepts(grammar, right)
    assert not accepts(grammar, wrong)


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        ("ebnf", "root ::= ((("),
        ("lark", 'start: %json {"x-guidance": {"lenient": true}}'),
        ("lark", '%llguidance {"no_forcing": true}\nstart: "a"'),
        ("lark", "start: <[1]>"),
        ("lark", "start: <|im_end|>"),
        ("lark", 'start: "a\\""  <[1]>  "b"'),
        ("lark", 'start: /a"/ <[1]> /"/'),
        ("lark", "start: nothing"),
        ("lark", "start: ("),
        ("lark", ""),
        ("regex", "(?=a)"),
        ("regex", "["),
        ("regex", "a\\"),
    ],
)
def test_rules_that_cannot_be_enforced_are_refused(kind: str, rules: str) -> None:
    with pytest.raises(Refused) as refused:
        matcher(kind, rules)
    assert "Traceback" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_rules_nested_deeply_do_not_end_the_process() -> None:
    for rules in ("start: " + "(" * 60_000, "start: " + "(" * 5_000 + '"a"' + ")" * 5_000):
        with pytest.raises((Refused, RecursionError)):
            matcher("lark", rules)


ARGUMENTS = {
    "type": "object",
    "properties": {
        "a": {"type": "string"},
        "n": {"type": "integer", "minimum": 3},
        "u": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "e": {"type": ["string", "null"], "enum": ["x", "y z"]},
        "l": {"type": "string", "maxLength": 3},
        "r": {"$ref": "#/$defs/r"},
        "o": {"anyOf": [{"$ref": "#/$defs/e"}, {"type": "null"}]},
    },
    "required": ["a"],
    "$defs": {"r": {"type": "array", "items": {"type": "null"}}, "e": {"enum": ["u", "v"]}},
}


def _in_xml(style: str, schema: Any) -> dict[str, Any]:
    content = {"type": "json_schema", "style": style, "json_schema": schema}
    return {"format": {"type": "tag", "begin": "<f>", "content": content, "end": "\n</f>"}}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<parameter=a>\nhi <b>\n</parameter>\n<parameter=n>\n3\n</parameter>", True),
        ("<parameter=a>x</parameter><parameter=u>null</parameter>", True),
        ("<parameter=a>x</parameter><parameter=e>y z</parameter>", True),
        ("<parameter=a>x</parameter><parameter=l>\nabc\n</parameter>", True),
        ("<parameter=a>x</parameter><parameter=r>[null]</parameter>", True),
        ("<parameter=n>3</parameter>", False),
        ("<parameter=a>x</parameter><parameter=n>2</parameter>", False),
        ("<parameter=a>x</parameter><parameter=e>q</parameter>", False),
        ("<parameter=a>x</parameter><parameter=l>abcdefg</parameter>", False),
        ("<parameter=a>x</parameter><parameter=l>a</parameter>", True),
        ("<parameter=a>x</parameter><parameter=o>u</parameter>", True),
        ("<parameter=a>x</parameter><parameter=o>w</parameter>", False),
        ("<parameter=a>x</parameter><parameter=z>1</parameter>", False),
    ],
)
def test_arguments_in_xml_follow_their_schema(text: str, right: bool) -> None:
    grammar = matcher("structural_tag", _in_xml("qwen_xml", ARGUMENTS))
    assert accepts(grammar, f"<f>{text}\n</f>") is right


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "object", "allOf": [{}]}, "'allOf' at #"),
        ({"type": "object", "required": ["z"]}, "'required'"),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "a"}}},
         "'pattern' at #/properties/a"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "'not'"),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"not": {}}}}},
         "'not' at #/properties/a/items"),
        ({"type": "object", "properties": {"a": {"type": "string", "minLength": "1"}}},
         "'minLength' that is no whole number"),
        ({"type": "object", "properties": {"a": {"enum": 3}}}, "'enum' that is no array"),
        ({"type": "object", "properties": {"a": {"type": "string", "format": "date"}}}, "'format'"),
        ({"type": "object", "properties": {"a": {"const": "a</parameter>"}}}, "</parameter>"),
        ({"type": "object", "required": "a"}, "'required' that is no array of names"),
        ({"type": "object", "properties": []}, "'properties' that is no object"),
        ({"type": "object", "properties": {"a": {"pattern": "a"}}}, "'pattern'"),
        ({"type": "object", "properties": {"a": {"anyOf": [{"type": "string", "pattern": "a"},
          {"type": "null"}]}}}, "'pattern'"),
        ({"type": "object", "properties": {"a": False}}, "no value"),
        ({"type": "object", "properties": {"a": {"type": "string", "enum": [1]}}}, "no value"),
    ],
)  # fmt: skip
def test_what_xml_cannot_be_held_to_is_refused_by_name(schema: Any, named: str) -> None:
    with pytest.raises(Refused) as refused:
        matcher("structural_tag", _in_xml("qwen_xml", schema))
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "x-order": 1, "$comment": "of text", "nullable": True}, "any"),
        ({"type": "string", "format": "file-path"}, "any"),
        ({"type": ["string", "integer"], "minimum": 3}, "any"),
        ({"type": ["string", "integer"], "minimum": 3}, "4"),
        ({"minLength": 2}, "[]"),
        ({"type": "string", "minLength": 3, "maxLength": 1e300}, "any"),
    ],
)
def test_in_xml_what_says_nothing_of_a_text_has_no_effect_on_one(schema: Any, text: str) -> None:
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"], "x-order": ["a"]}
    grammar = matcher("structural_tag", _in_xml("qwen_xml", whole))
    assert accepts(grammar, f"<f><parameter=a>{text}</parameter>\n</f>")


@pytest.mark.parametrize(
    "schema",
    [{"type": "string", "pattern": "b"}, {"type": "string", "not": {}}, {"enum": 3},
     {"minLength": "1"}, {"type": "string", "format": "date"},
     {"oneOf": [{"type": "string"}, {"type": "null"}]}],
)  # fmt: skip
def test_in_xml_what_cannot_be_held_to_is_left_out_of_a_tool_that_is_not_strict(
    schema: Any,
) -> None:
    whole = {"type": "object", "properties": {"a": schema}, "x-best-effort": True, "not": {}}
    grammar = matcher("structural_tag", _in_xml("qwen_xml", whole))
    assert accepts(grammar, "<f><parameter=a>any</parameter>\n</f>")


def test_a_tag_of_xml_may_be_a_special_token() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    special = {"<arg_key>": 256, "</arg_key>": 257, "<arg_value>": 258, "</arg_value>": 259}
    grammar = matcher("structural_tag", _in_xml("glm_xml", schema), special)
    for token in (*b"<f>\n", 256, *b"a", 257, *b"\n", 258, *b"any text", 259, *b"\n</f>"):
        assert grammar.consume_token(token)
    assert grammar.is_accepting()
