"""Pieces of llguidance's Lark, and structural tags written in it.

A structural tag is xgrammar's description of an answer as nested formats; SGLang writes one for
each way in which a model calls tools. Lark of llguidance 1.9.1: docs/syntax.md there.

A special token never matches text, so where a marker is one it is written by its id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from app.grammars import xml_calls
from app.grammars.in_json import in_json, renamed
from app.grammars.patterns import plain_pattern
from app.grammars.refused import Refused
from app.grammars.schema import enforceable
from app.types import Json

JSON_OPTIONS: Json = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,
    "coerce_one_of": False,
    "json_allowed_escapes": 'nrbtf\\"',
}
"""One blank at most: without a bound a model may write blanks until its tokens are used up. No
\\uXXXX: a name that is declared could be written a second time by it."""

_TEXT = r"/(?s:.*)/"


def quoted(text: str) -> str:
    """A literal."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\x7f")


def choice(texts: list[str]) -> str:
    """Exactly one of these texts."""
    return "start: " + " | ".join(map(quoted, texts))


def inline_json(schema: Json, *, without_patterns: bool) -> str:
    plain = enforceable(schema, without_patterns=without_patterns)
    return "%json " + json.dumps({**plain, "x-guidance": JSON_OPTIONS})


def structural_tag(
    format: Json, special: Mapping[str, int], *, without_patterns: bool = False
) -> str:
    """xgrammar's structural tag as Lark. `special`: text of each special token -> its id.

    `without_patterns`: as in `enforceable`. Raises Refused for a format that is not known here.
    """
    return _Writer(special, without_patterns).write(format)


def unknown_format(format: Any) -> str | None:
    """The first format in a structural tag that cannot be written here; None: all can."""
    stack = [format]
    while stack:
        each = stack.pop()
        if isinstance(each, list):
            stack += each
        elif isinstance(each, dict):
            type, style = each.get("type"), each.get("style", "json")
            if type == "json_schema":
                schema = each.get("json_schema")
                is_object = isinstance(schema, dict) and schema.get("type") == "object"
                if style != "json" and not (style in xml_calls.STYLES and is_object):
                    return str(style)
                continue  # what a schema holds is no format
            if isinstance(type, str) and type not in _FORMATS:
                return type
            stack += each.values()
    return None


_FORMATS = {
    "const_string", "json_schema", "regex", "any_text", "sequence", "or", "optional", "star",
    "plus", "tag", "tags_with_separator", "triggered_tags", "structural_tag",
}  # fmt: skip


class _Writer:
    def __init__(self, special: Mapping[str, int], without_patterns: bool) -> None:
        self._special = special
        self._without_patterns = without_patterns
        self._rules: list[str] = []
        names = sorted(map(re.escape, special), key=len, reverse=True)
        self._markers = re.compile(f"({'|'.join(names)})") if names else None

    def write(self, format: Json) -> str:
        start = self._of(format)
        return "\n".join([f"start: {start}", *self._rules])

    def rule(self, body: str, *, options: str = "") -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def literal(self, text: str) -> str:
        """Text with special tokens in it."""
        parts = self._markers.split(text) if self._markers else [text]
        return (
            " ".join(
                f"<[{self._special[part]}]>" if part in self._special else quoted(part)
                for part in parts
                if part
            )
            or '""'
        )

    def after_blank(self, text: str) -> str:
        # As one terminal: a blank of its own would be taken from what else begins with one.
        if self._has_marker(text):
            return f"/[ \\n]{{0,2}}/ {self.literal(text)}"
        return f"/[ \\n]{{0,2}}{_exactly(text)}/"

    def text_until(self, end: str, pattern: str = "(?s:.*)") -> str:
        if self._has_marker(end):
            return f"{self.rule(f'/{pattern}/')} {self.literal(end)}"
        return self.rule(f"/{pattern}/ {quoted(end)}", options="[lazy]")

    def json(self, schema: Json) -> str:
        rules = _rules_of_input(schema)
        if rules is None:
            return self.rule(inline_json(schema, without_patterns=self._without_patterns))
        prefix = self._prefix()
        self._rules.append(in_json(rules, prefix))
        begin, end = quoted('{"input": "'), quoted('"}')
        return self.rule(f"{begin} {prefix}start {end}")

    def text_by(self, rules: str) -> str:
        prefix = self._prefix()
        self._rules.append(renamed(rules, prefix))
        return f"{prefix}start"

    def _prefix(self) -> str:
        return f"c{len(self._rules)}_"

    def _of(self, format: Any) -> str:
        """An expression that needs no brackets of its own."""
        if not isinstance(format, dict):
            raise Refused("has a format that is no object")
        match format.get("type"):
            case "const_string":
                return self.literal(_text(format, "value"))
            case "json_schema" if format.get("style", "json") == "json":
                schema = format.get("json_schema")
                if not isinstance(schema, dict | bool):
                    raise Refused("has a 'json_schema' that is no schema")
                return self.json(schema if isinstance(schema, dict) else {})
            case "json_schema" if format.get("style") in xml_calls.STYLES:
                return xml_calls.arguments(format["json_schema"], format["style"], self)
            case "regex":
                return self.rule(regex(_text(format, "pattern")))
            case "any_text":
                return self.rule(self._any_text(format))
            case "sequence":
                return " ".join(map(self._group, _list(format, "elements"))) or '""'
            case "or":
                return self.rule(" | ".join(map(self._of, _list(format, "elements"))))
            case "optional":
                return f"{self._group(format.get('content'))}?"
            case "star":
                return f"{self._group(format.get('content'))}*"
            case "plus":
                return f"{self._group(format.get('content'))}+"
            case "tag":
                return self._tag(format)
            case "tags_with_separator":
                return self._separated(format)
            case "triggered_tags":
                return self._triggered(format)
            case other:
                raise Refused(f"has a format of type '{str(other)[:60]}', which is not supported")

    def _group(self, format: Any) -> str:
        return f"({self._of(format)})"

    def _any_text(self, format: Json) -> str:
        if format.get("excludes"):
            excluded = "|".join(map(_exactly, format["excludes"]))
            return self._terminal(rf"{_TEXT} & ~/(?s:.*)({excluded})(?s:.*)/")
        return _TEXT

    def _terminal(self, body: str) -> str:
        name = f"T{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _tag(self, tag: Json, *, after: str = "") -> str:
        """`after`: the part of its begin that is written already."""
        begin = _text(tag, "begin")[len(after) :]
        ends = tag.get("end")
        ends = ends if isinstance(ends, list) else [ends]
        if not all(isinstance(end, str) for end in ends):
            raise Refused("has a tag whose 'end' is no text")
        content = tag.get("content")
        in_xml = isinstance(content, dict) and content.get("style") in xml_calls.STYLES
        literals = [self.after_blank(end) if in_xml else self.literal(end) for end in ends]
        if isinstance(content, dict) and content.get("type") == "any_text":
            plain = [end for end in ends if not self._has_marker(end)]
            if plain == ends and all(ends):  # the text ends where its end begins
                last = " | ".join(map(quoted, ends))
                body = self.rule(f"{self._any_text(content)} ({last})", options="[lazy]")
                return f"{self.literal(begin)} {body}"
        return f"{self.literal(begin)} {self._group(content)} ({' | '.join(literals)})"

    def _has_marker(self, text: str) -> bool:
        return self._markers is not None and self._markers.search(text) is not None

    def _separated(self, format: Json) -> str:
        tag = self.rule(" | ".join(self._tag(each) for each in _list(format, "tags")))
        separator = self.literal(_text(format, "separator"))
        most = format.get("max_items")  # ours
        count = "*" if most is None else f"{{0,{int(most) - 1}}}"
        many = tag if format.get("stop_after_first") else f"{tag} ({separator} {tag}){count}"
        return many if format.get("at_least_one") else f"({many})?"

    def _triggered(self, format: Json) -> str:
        """Text up to a trigger, then a tag that begins with it; text again."""
        tags, triggers = _list(format, "tags"), _list(format, "triggers")
        parts: list[str] = []
        for trigger in triggers:
            begun = [each for each in tags if _text(each, "begin").startswith(trigger)]
            if not begun:
                continue
            rest = self.rule(" | ".join(self._tag(each, after=trigger) for each in begun))
            if self._has_marker(trigger):
                head = f"{self.rule(self._any_text(format))} {self.literal(trigger)}"
            else:
                head = self.rule(f"{self._any_text(format)} {quoted(trigger)}", options="[lazy]")
            parts.append(f"{head} {rest}")
        if not parts:
            raise Refused("has no tag that begins with one of its triggers")
        call = self.rule(" | ".join(parts))
        if format.get("at_least_one"):
            first = self.rule(" | ".join(self._tag(each) for each in tags))
            if format.get("stop_after_first"):
                return first
            return f"{first} {call}* {self.rule(self._any_text(format))}"
        if format.get("stop_after_first"):
            return self.rule(f"{call} | {self.rule(self._any_text(format))}")
        return f"{call}* {self.rule(self._any_text(format))}"


RULES = "x-lark"
"""In the schema of a text: rules of the client that it follows."""


def _rules_of_input(schema: Json) -> str | None:
    """The rules of a tool's only argument, its free text."""
    match schema.get("properties"):
        case {"input": {"x-lark": str(rules)}}:
            return rules
        case _:
            return None


def _exactly(text: str) -> str:
    """A pattern, between slashes, of this text."""
    return re.sub(r"[\\^$.|?*+()\[\]{}/]", r"\\\g<0>", text).replace("\n", r"\n")


def regex(pattern: str) -> str:
    """A terminal that matches as a whole; anchors at its ends say nothing more."""
    inner = pattern.removeprefix("^")
    if inner.endswith("$") and not inner.endswith(r"\$"):
        inner = inner[:-1]
    inner = plain_pattern(inner)
    inner = re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", inner, flags=re.S)
    return "/(?:" + inner.replace("\n", r"\n") + ")/"


def _text(format: Json, key: str) -> str:
    value = format.get(key)
    if not isinstance(value, str):
        raise Refused(f"has a format '{format.get('type')}' without a text '{key}'")
    return value


def _list(format: Json, key: str) -> list[Any]:
    value = format.get(key)
    if not isinstance(value, list):
        raise Refused(f"has a format '{format.get('type')}' without a list '{key}'")
    return value
