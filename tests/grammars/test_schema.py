"""JSON schemas as clients write them: enforced as they stand, or refused by name and place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.grammars.keywords import MAX_OPTIONAL, MAX_PATTERNS
from app.grammars.references import rerooted
from app.grammars.refused import Refused
from tests.support.grammars import accepts, matcher

ONE = {"type": "object", "properties": {"k": {"const": 1}}, "required": ["k"]}
A = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"const": 2}}, "required": ["b"]}
LARGE = 2**64


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        # what stands beside a keyword applies, too
        ({**ONE, "anyOf": [{"required": ["k"]}]}, '{"k": 1}', '"x"'),
        ({**ONE, "oneOf": [{"required": ["k"]}]}, '{"k": 1}', "{}"),
        ({**ONE, "allOf": [{"required": ["k"]}]}, '{"k":1}', '{"k": 2}'),
        ({"allOf": [A, B]}, '{"a": 1, "b": 2}', '{"a": 1}'),
        ({"allOf": [{"$ref": "#/$defs/A"}], **B, "$defs": {"A": A}}, '{"a": 1, "b": 2}',
         '{"b": 2}'),
        ({"enum": [1, 2], "minimum": 2}, "2", "1"),
        ({"$ref": "#/$defs/i", "maximum": 3, "$defs": {"i": {"type": "integer"}}}, "3", "4"),
        # names that are not declared
        ({"type": "object", "required": ["a"]}, '{"a": null}', "{}"),
        ({"type": "object", "properties": {"b": {"const": 1}}, "required": ["a", "b"]},
         '{"b": 1, "a": 0}', '{"b": 1}'),
        # references
        ({"$ref": "#foo", "$defs": {"a": {"$anchor": "foo", "const": 5}}}, "5", "6"),
        ({"$id": "http://x.y/z", "$ref": "#/$defs/a", "$defs": {"a": {"const": 5}}}, "5", "6"),
        ({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"const": 5}}}, "5", "6"),
        ({"type": "array", "items": {"$ref": "#"}, "maxItems": 1}, "[[[]]]", "[1]"),
        ({"anyOf": [{"$ref": "#/$defs/t"}, {"type": "null"}], "$defs": {"t": {
            "type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]}}},
         '{"n": {"n": null}}', "{}"),
        # what is written in a string is escaped
        ({"type": "string", "pattern": '^a"b$'}, r'"a\"b"', '"a"b"'),
        ({"type": "string", "pattern": r"^\\$"}, r'"\\"', '"\\"'),
        ({"type": "object", "patternProperties": {'^"$': {"const": 1}}, "minProperties": 1,
          "additionalProperties": False}, r'{"\"":1}', "{}"),
        ({"type": "string", "maxLength": 3}, r'"a\nb"', '"a\nb"'),
        ({"const": "a\u2028b"}, '"a\u2028b"', '"ab"'),
        # bounds beyond 64 bits, and those that are no floats
        ({"type": "integer", "minimum": 0, "maximum": LARGE - 1}, "5", "-1"),
        ({"type": "integer", "minimum": -9223372036854776000, "maximum": 9223372036854776000},
         "5", '"5"'),
        ({"type": "integer", "maximum": 2**53 + 1}, str(2**53 - 9), str(2**53 + 2)),
        ({"type": "integer", "exclusiveMaximum": 2.5}, "2", "3"),
        ({"type": "number", "maximum": 1.8611109445337206}, "1.5", "1.8611109445337208"),
        ({"type": "string", "minLength": 2.0, "maxLength": LARGE}, '"ab"', '"a"'),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0.1", "0"),
        ({"exclusiveMinimum": 1, "maximum": 1.5}, "1.2", "1"),
        ({"type": "number", "exclusiveMaximum": 0, "minimum": -0.5}, "-0.2", "-0"),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 3}, "2", "1"),
        # one spelling of each name
        ({"properties": {"a": {"type": "integer"}}, "additionalProperties": True,
          "type": "object"}, '{"a": 1, "b": 2}', r'{"a": 1, "\u0061": "x"}'),
        ({"patternProperties": {"^x-": {"type": "integer"}}}, '{"x-a": 1}', r'{"\u0078-a": "q"}'),
        # patterns are ECMAScript's
        ({"type": "string", "pattern": "^[[:alpha:]]$"}, '":]"', '"b"'),
        ({"type": "string", "pattern": "^[a-z&&[aeiou]]$"}, '"&]"', '"a"'),
        ({"type": "string", "pattern": "^{{.*}}$"}, '"{{a}}"', '"a"'),
        ({"type": "string", "pattern": "^.$"}, '"\xa0"', '"\u2028"'),
        ({"type": "string", "pattern": "^.$"}, '"\x85"', r'"\r"'),
        ({"type": "string", "pattern": "^[.]$"}, '"."', '"a"'),
        ({"type": "string", "pattern": "^(?s:.)$"}, '"\u2028"', '"aa"'),
        ({"type": "string", "pattern": r"^\s$"}, '"\u3000"', '"\x85"'),
        ({"type": "string", "pattern": r"^\S$"}, '"\xe9"', '"\ufeff"'),
        ({"type": "string", "pattern": r"^[\sa]$"}, '"a"', '"\ufeff"'),
        ({"type": "string", "pattern": r"^[^\S]$"}, '"\u2003"', '"\x85"'),
        ({"type": "string", "pattern": r"^[^\s]$"}, '"."', '"\ufeff"'),
        ({"type": "string", "pattern": r"^\\s\S$"}, r'"\\sa"', '"\ufeffa"'),
        # names that are no addresses
        ({"$ref": "#/$defs/Größe", "$defs": {"Größe": {"const": 5}}}, "5", "6"),
        ({"$ref": "#/$defs/A[int]", "$defs": {"A[int]": {"const": 5}}}, "5", "6"),
        ({"$id": "urn:example:x", "$ref": "#q", "$defs": {"a": {"$anchor": "q", "const": 5}}},
         "5", "6"),
        # alternatives that exclude each other
        ({"oneOf": [{"const": 1}, {"const": 2}]}, "1", "3"),
        ({"oneOf": [{"type": "object", "properties": {name: {"type": "null"}}, "required": [name],
                     "additionalProperties": False} for name in "ab"]}, '{"b": null}', "{}"),
        # keywords of another draft
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
          "prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, "[1]", '["x"]'),
        # keywords that ask for nothing
        ({"type": "array", "items": {"const": 1}, "maxItems": 1, "uniqueItems": False}, "[1]",
         "[2]"),
        ({"type": "object", "propertyNames": {"type": "string"}}, '{"a": 1}', "1"),
        ({**ONE, "unevaluatedProperties": False}, '{"k": 1}', '{"k": 1, "b": 2}'),
        ({"if": {"const": 1}, "type": "integer"}, "1", '"1"'),
        ({"x-guidance": {"lenient": True}, "type": "null"}, "null", "1"),
        ({"$schema": "https://json-schema.org/draft-07/schema", "type": "null"}, "null", "1"),
        ({"type": "string", "format": "password"}, '"x"', "1"),
        ({"enum": [{"not": 1}], "default": {"contains": 1}}, '{"not": 1}', "1"),
        ({"properties": {"not": {"const": 1}}, "type": "object"}, '{"not": 1}', '{"not": 2}'),
        # objects that declare properties have no others
        ({"type": "object", "properties": {"a": {"properties": {"b": True}}}}, '{"a": {"b": 1}}',
         '{"a": {"c": 1}}'),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": True}, '{"b": 1}',
         "[]"),
        ({"anyOf": [{**ONE}, {"type": "null"}]}, "null", '{"k": 1, "b": 2}'),
    ],
)  # fmt: skip
def test_a_schema_is_enforced_as_it_stands(schema: Any, right: str, wrong: str) -> None:
    grammar = matcher("json_schema", schema)
    assert accepts(grammar, right)
    assert not accepts(grammar, wrong)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"$ref": "#/$defs/n", "$defs": {"n": {"$ref": "#/$defs/n"}}}, "no finite value at #"),
        ({"$ref": "#"}, "no finite value"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
         "no finite value"),
        ({"type": "object", "properties": {"c": {"$ref": "#"}}, "required": ["c"]},
         "no finite value"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "no finite value"),
        ({"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"allOf": [
            {"$ref": "#/$defs/n"}]}}}, "no finite value at #/properties/a"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "'$ref' to 'http://127.0.0.1:9/x.json'"),
        ({"items": {"$ref": "#/nowhere"}}, "at #/items a '$ref'"),
        ({"$ref": "#/enum", "enum": [1]}, "which is no schema"),
        ({"$ref": 3}, "'$ref' that is no text"),
        ({"allOf": [{"$ref": "#a"}], "$defs": {"x": {"$anchor": "a"}, "y": {"$anchor": "a"}}},
         "'$ref' to '#a'"),
        ({"anyOf": []}, "'anyOf' that is empty"),
        ({"type": []}, "'type' that is empty"),
        ({"type": "strin"}, "'type' that is none of"),
        ({"items": {"type": "string", "maxLength": -1}},
         "at #/items a 'maxLength' that is negative"),
        ({"maxLength": "3"}, "'maxLength' that is no whole number"),
        ({"minItems": True}, "'minItems'"),
        ({"minimum": "1"}, "'minimum' that is no number"),
        ({"minimum": LARGE}, "'minimum' that is beyond 64 bits"),
        ({"maximum": -LARGE}, "'maximum' that is beyond 64 bits"),
        ({"multipleOf": 0}, "'multipleOf' that is not above 0"),
        ({"multipleOf": 1.2345678912345678}, "'multipleOf' with too many digits (at #)"),
        ({"required": "a"}, "'required'"),
        ({"properties": []}, "'properties'"),
        ({"items": 3}, "schema at #/items"),
        ({"items": None}, "schema at #/items"),
        ({"enum": [LARGE]}, "'enum'"),
        ({"const": 2**53 + 1}, "'const'"),
        ({"const": "a\x01"}, "'const' at # a control character"),
        ({"enum": ["0\x7f"]}, "'enum' at # a control character"),
        ({"properties": {"\x01": {}}}, "a name with a control character"),
        ({"type": "string", "pattern": r"^a\x01$"}, "'pattern' with a control character"),
        ({"type": "string", "pattern": r"^a\u{1}$"}, "'pattern' with a control character"),
        ({"type": "string", "pattern": r"^a\x7f$"}, "'pattern' with a control character"),
        ({"type": "string", "pattern": "^a\x7f$"}, "'pattern' with a control character"),
        ({"type": "string", "pattern": r"^a\vb$"}, "'pattern' with a control character"),
        ({"type": "string", "pattern": r"^a[\x7f]b$"}, "'pattern' with a control character"),
        ({"type": "string", "pattern": "^a[\x7f]b$"}, "'pattern' with a control character"),
        ({"type": "string", "pattern": r"[\x01-\x03]"}, "'pattern' with a control character"),
        ({"type": "string", "pattern": r"[^\0-\x7e\x80-\u{10ffff}]"},
         "'pattern' with a control character"),
        ({"const": 99.99999999999999}, "'const' at # a number with too many digits"),
        ({"enum": [8e-25]}, "'enum' at # a number with too many digits"),
        ({"const": {"a": [-(2**63)]}}, "'const'"),
        ({"not": {"type": "string"}}, "'not' at #"),
        ({"properties": {"a/b": {"items": {"contains": {}}}}},
         "'contains' at #/properties/a~1b/items"),
        ({"if": {}, "then": {}}, "'if'"),
        ({"uniqueItems": True}, "'uniqueItems'"),
        ({"dependencies": {"a": ["b"]}}, "'dependencies'"),
        ({"propertyNames": {"maxLength": 2}}, "'propertyNames'"),
        ({"$ref": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": {}}},
         "'unevaluatedProperties'"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, "'oneOf'"),
        ({"properties": {"a": {}}, "minProperties": 1}, "'minProperties' beside optional"),
        ({"minProperties": 2}, "'minProperties'"),
        ({"properties": {f"p{no}": {} for no in range(MAX_OPTIONAL + 1)}}, "'properties' at #"),
        ({"patternProperties": {f"^{no}$": {} for no in range(MAX_PATTERNS + 1)}},
         "'patternProperties' at #"),
        ({"patternProperties": {"a": True, "b": {"type": "null"}}}, "'patternProperties'"),
        ({"type": "string", "pattern": "^(?=b)a$"}, "'pattern' with a look-around"),
        ({"type": "string", "pattern": r"a\b"}, "'pattern' with a look-around or word boundary"),
        ({"type": "string", "pattern": r"(a)\1"}, "'pattern' with a backreference"),
        ({"type": "string", "pattern": "["}, "'pattern' that is not valid"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no value that follows all of it"),
        ({"allOf": [True, False]}, "no value that follows all of it"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_by_name(schema: Any, named: str) -> None:
    with pytest.raises(Refused) as refused:
        matcher("json_schema", schema)
    assert named in str(refused.value)
    assert len(str(refused.value)) < 300


def test_an_unused_definition_may_hold_anything() -> None:
    matcher("json_schema", {"$defs": {"a": {"not": {}, "type": 3}}, "type": "null"})


def test_the_largest_schemas_are_enforced() -> None:
    many = {"type": "object", "properties": {f"p{no}": {} for no in range(MAX_OPTIONAL)}}
    assert accepts(matcher("json_schema", many), '{"p0": 1, "p449": 2}')
    patterns = {"patternProperties": {f"^{no}$": {} for no in range(MAX_PATTERNS)}}
    assert accepts(matcher("json_schema", patterns), '{"7": 1}')


@pytest.mark.parametrize("place", ["properties", "items", "anyOf", "$defs", "allOf"])
def test_a_schema_as_deep_as_the_bound_allows_is_no_harm(place: str) -> None:
    schema: Any = {"type": "null"}
    for _ in range(31):
        inner = {"a": schema} if place in ("properties", "$defs") else schema
        schema = {place: [inner] if place in ("anyOf", "allOf") else inner}
    matcher("json_schema", json.loads(json.dumps(schema)))


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "array", "uniqueItems": True, "items": {"const": 1}}, "[1, 1]", "[2]"),
        ({"type": "object", "properties": {"a": {"not": {}, "type": "null"}}}, '{"a": null}', "[]"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, "1", "x"),
        ({"properties": {"a": {"const": 1}}, "minProperties": 1}, "{}", '{"a": 2}'),
        ({"patternProperties": {"a": {}, "b": {}}, "additionalProperties": False}, '{"c": 1}', "]"),
        ({"type": "string", "pattern": "^(?=b)a$"}, '"x"', "1"),
        ({"type": "string", "pattern": r"a\b"}, '"x"', "1"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"contains": {}, "type": "array"}}}, "[]", "1"),
        ({"if": {}, "then": {}, "type": "null"}, "null", "1"),
        ({"type": "string", "format": "uri", "minLength": 1}, '"http://a.b"', '"a b"'),
        ({"type": "string", "pattern": r"\cA"}, '"x"', "1"),
        ({"type": "object", "properties": {"a": {"const": 1e300}}}, '{"a": 1}', "[]"),
        ({"type": "object", "properties": {"a": {"$ref": "http://x/y"}}}, '{"a": 1}', "[]"),
    ],
)
def test_with_best_effort_what_cannot_be_enforced_is_left_out(
    schema: Any, right: str, wrong: str
) -> None:
    grammar = matcher("json_schema", {**schema, "x-best-effort": True})
    assert accepts(grammar, right)
    assert not accepts(grammar, wrong)


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"},
                                    "minItems": 1}])  # fmt: skip
def test_best_effort_does_not_take_what_has_no_meaning(schema: Any) -> None:
    with pytest.raises(Refused):
        matcher("json_schema", {**schema, "x-best-effort": True})


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (r"^\u{1F600}$", "😀"),
        (r"^\x{10FFFF}$", "\U0010ffff"),
        (r"^\u{0041}\u{00000041}$", "AA"),
        (r"^a\ud83d\ude00b$", "a😀b"),
        (r"^[\ud83d\ude00x]$", "😀"),
        (r"^[\x7fa]$", "a"),
        (r"^[^\x7f]$", "b"),
        (r"^\\ud83d\\ude00$", r"\ud83d\ude00"),
        (r"^[a\-\x01]$", "-"),
    ],
)
def test_characters_are_written_in_every_way_that_ecmascript_has(
    pattern: str, matches: str
) -> None:
    grammar = matcher("json_schema", {"type": "string", "pattern": pattern})
    assert accepts(grammar, json.dumps(matches, ensure_ascii=False))


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    words = ["default", "enum", "const", "example", "$id", "$anchor"]
    schema = {
        "type": "object",
        "properties": {word: {"$ref": "#/$defs/T"} for word in words},
        "required": words,
        "$defs": {"T": {"type": "integer"}},
        "additionalProperties": False,
    }
    tool = rerooted(schema, "#/$defs/tool0")
    assert tool["properties"]["default"] == {"$ref": "#/$defs/tool0/%24defs/T"}
    grammar = matcher("json_schema", {"$ref": "#/$defs/tool0", "$defs": {"tool0": tool}})
    assert accepts(grammar, json.dumps(dict.fromkeys(words, 1)))
    assert not accepts(grammar, json.dumps(dict.fromkeys(words, "x")))
