"""Rules of a client, as the text that they describe stands inside a string of JSON.

A call has its arguments in JSON, so that the free text of a tool is escaped there: a line break is
two characters. Each literal and each pattern is made to match the escaped text. Terminals become
rules, and patterns expressions, because an escape and what follows a pattern may begin alike: a
terminal, once it has taken a backslash, cannot give it back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from app.grammars.patterns import plain_set
from app.grammars.refused import Refused

_ESCAPED = {chr(code): json.dumps(chr(code))[1:-1] for code in (*range(32), 34, 92)}
"""Every character that JSON escapes -> how."""
_PLAIN = r'[^"\\\x00-\x1f]'
_COMMON = {
    "LF": r"\n", "CR": r"\r", "NEWLINE": r"(\r?\n)+", "WS": r"[ \t\f\r\n]+", "WS_INLINE": r"[ \t]+",
    "DIGIT": "[0-9]", "HEXDIGIT": "[a-fA-F0-9]", "INT": "[0-9]+", "SIGNED_INT": r"[+\-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+", "NUMBER": r"[0-9]+(\.[0-9]*)?([eE][+\-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+\-]?[0-9]+(\.[0-9]*)?([eE][+\-]?[0-9]+)?", "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]", "LETTER": "[a-zA-Z]", "WORD": "[a-zA-Z]+",
    "CNAME": "[_a-zA-Z][_a-zA-Z0-9]*", "ESCAPED_STRING": r'"([^"\\\n]|\\.)*"',
}  # fmt: skip
"""Lark's common terminals."""

_TOKEN = re.compile(
    r"""
    (?P<comment>//[^\n]*|\#[^\n]*)
    | (?P<text>"(?:\\.|[^"\\\n])*"i?)
    | /(?P<pattern>(?:\\.|[^/\\\n])+)/(?P<flags>[imslux]*)
    | %import\s+common\s*(?:\.\s*(?P<one>\w+)|\((?P<many>[\w\s,]+)\))
    | (?P<foreign>%\w*|\.\.|[&~@<>])
    | (?P<alias>->\s*\w+)
    | (?P<name>[A-Za-z_][\w-]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def in_json(rules: str, prefix: str) -> str:
    """The same rules for the escaped text; the name of each begins with `prefix`.

    Raises Refused for what has no such form.
    """
    return "".join(_written(rules, prefix))


def renamed(rules: str, prefix: str) -> str:
    """The same rules for the text as it is, but for their names. Raises Refused."""

    def written() -> Iterator[str]:
        for token in _TOKEN.finditer(rules):
            kind, text = token.lastgroup, token[0]
            if kind in ("one", "many"):
                for name, pattern in _imported(token):
                    yield f"{prefix.upper()}{name}: /{pattern}/\n"
            elif kind == "foreign" and text not in ("..", "&", "~"):
                raise Refused(f"has '{text[:40]}', which is not supported in a call")
            elif kind == "name":
                yield (prefix.upper() if text.isupper() else prefix) + text
            elif kind != "alias":
                yield text

    return "".join(written())


def _imported(token: re.Match[str]) -> Iterator[tuple[str, str]]:
    for name in re.findall(r"\w+", token["one"] or token["many"]):
        if name not in _COMMON:
            raise Refused(f"imports '{name[:40]}', which is not supported in a call")
        yield name, _COMMON[name]


def _written(rules: str, prefix: str) -> Iterator[str]:
    for token in _TOKEN.finditer(rules):
        kind, text = token.lastgroup, token[0]
        if token["pattern"] is not None:
            yield f"({_expression(token['pattern'], token['flags'])})"
        elif kind in ("one", "many"):
            for name, pattern in _imported(token):
                yield f"{_name(name, prefix)}: {_expression(pattern, '')}\n"
        elif kind == "text":
            yield _literal(text.rstrip("i")) + ("i" if text.endswith("i") else "")
        elif kind == "foreign":
            raise Refused(f"has '{text[:40]}', which is not supported in a call")
        elif kind == "name":
            yield _name(text, prefix)
        elif kind == "other":
            yield text


def _name(name: str, prefix: str) -> str:
    return f"{prefix}t_{name.lower()}" if name.isupper() else f"{prefix}{name.lower()}"


def _literal(text: str) -> str:
    try:
        meant = json.loads(re.sub(r"\\x([0-9a-fA-F]{2})|(\\.)", _in_json_words, text))
    except ValueError:
        raise Refused(f"has a text that cannot be read: {text[:40]}") from None
    return _quoted(meant)


def _in_json_words(escape: re.Match[str]) -> str:
    return escape[2] or f"\\u00{escape[1]}"


def _quoted(text: str) -> str:
    """The literal of this text's escaped form."""
    return json.dumps(json.dumps(text, ensure_ascii=False)[1:-1], ensure_ascii=False)


_ATOM = re.compile(
    r"""
    (?P<begin>\((?:\?:|\?P<\w+>)?)
    | (?P<end>\))
    | (?P<or>\|)
    | (?P<count>(?:[*+?]|\{\d*,?\d*\})\??)
    | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\]|\\[dDwWsS]|\.)
    | (?P<hex>\\x\{[0-9a-fA-F]+\}|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4})
    | (?P<control>\\[nrtfv])
    | (?P<escape>\\[^A-Za-z0-9])
    | (?P<unknown>\\.|[\^$])
    | (?P<char>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def _expression(pattern: str, flags: str) -> str:
    """A pattern as an expression of rules."""
    if set(flags) - {"s"}:
        raise Refused("has a pattern with flags, which is not supported in a call")
    parts: list[str] = []
    atoms = list(_ATOM.finditer(pattern))
    for atom, after in zip(atoms, [*atoms[1:], None], strict=True):
        text = atom[0]
        match atom.lastgroup:
            case "begin":
                if text == "(" and pattern[atom.end() :].startswith("?"):
                    raise Refused("has a pattern with look-around or flags in it")
                parts += ["(", '""'] if after is None or after.lastgroup in ("or", "end") else ["("]
            case "end":
                parts.append(")")
            case "or":
                parts += ["|", '""'] if after is None or after.lastgroup in ("or", "end") else ["|"]
            case "count":
                parts[-1] += text[0] if text[0] in "*+?" else text.removesuffix("?")
            case "set":
                # Several at once only at the pattern's end: in it they would take what follows.
                many = re.fullmatch(r"[*+]\)*", pattern[atom.end() :])
                parts.append(_one_of(text, "s" in flags, "+" if many else ""))
            case "unknown":
                raise Refused(f"has a pattern with '{text}', which is not supported in a call")
            case _:
                parts.append(_quoted(_meant(text)))
    return " ".join(parts) or '""'


def _meant(atom: str) -> str:
    """The character of an atom that is one."""
    if len(atom) == 1:
        return atom
    if atom[1] in "xu":
        return chr(int(atom[2:].strip("{}"), 16))
    return {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}.get(atom[1], atom[1])


def _one_of(set: str, all_lines: bool, many: str) -> str:
    """One character of the set, plain or escaped. `many`: of plain ones, several at a time."""
    if set == ".":
        set = r"[\s\S]" if all_lines else r"[^\n]"
    elif set.startswith("["):
        set = plain_set(set)
    python = re.sub(r"\\x\{([0-9a-fA-F]+)\}", lambda code: f"\\U{int(code[1], 16):08x}", set)
    try:
        # As ASCII: Python counts four more control characters as blanks.
        matches = re.compile(python, re.ASCII).fullmatch
        escaped = [how for char, how in _ESCAPED.items() if matches(char)]
    except re.error:
        raise Refused(f"has a pattern with '{set[:20]}', which is not supported") from None
    plain = f"/[{set}&&{_PLAIN}]{many}/"
    if not escaped:
        return f"({plain})"
    forms = "|".join(re.sub(r"[\\^$.|?*+()\[\]{}/]", r"\\\g<0>", how) for how in escaped)
    return f"({plain} | /{forms}/)"
