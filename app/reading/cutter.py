"""Text cut into single characters and whole tags: the one cutting that every parser sees."""

from __future__ import annotations

import re


class Cutter:
    """Cuts text into single characters, but leaves tags such as `<|end|>` and `<tool_call>` whole.

    Models write most of their markers as one token each, and some of SGLang's parsers know a marker
    only if it arrives whole.
    """

    _TAG = re.compile(r"<[^<>\s]{1,64}>")
    _BEGUN = re.compile(r"<[^<>\s]{0,64}")

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> list[str]:
        text, self._held = self._held + text, ""
        atoms: list[str] = []
        at = 0
        while at < len(text):
            if text[at] == "<":
                if (tag := self._TAG.match(text, at)) is not None:
                    atoms.append(tag[0])
                    at = tag.end()
                    continue
                if self._BEGUN.fullmatch(text, at):
                    self._held = text[at:]
                    break
            atoms.append(text[at])
            at += 1
        return atoms

    def finish(self) -> list[str]:
        held, self._held = self._held, ""
        return list(held)
