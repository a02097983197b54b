"""The channels of gpt-oss.

Source: https://cookbook.openai.com/articles/openai-harmony, read 2026-11.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from app.reading.cutter import Cutter
from app.reading.pieces import CallArguments, CallBegun, Piece, Said, Thought, joined


class Harmony:
    """Reads thinking, calls and answer.

    A message is a header up to `<|message|>` and a body up to the next marker. The header names the
    channel (analysis, commentary, final) and, of a call, `to=functions.NAME`, on either side of the
    channel.
    """

    _ENDS = frozenset({"<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"})
    _RECIPIENT = re.compile(r"to=functions\.([\w-]+)")
    _CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")

    def __init__(self, *, calls: bool) -> None:
        """`calls`: tools may be called; if not, text written to a tool is part of the answer."""
        self._calls = calls
        self._cutter = Cutter()
        self._header = ""
        self._make: Callable[[str], Piece] | None = None
        """Makes the body's text a piece; None in a header."""
        self._plain = True
        """No marker has come yet: the text may have no channels at all."""

    def feed(self, text: str) -> list[Piece]:
        return self._steps(self._cutter.feed(text))

    def finish(self) -> list[Piece]:
        return self._steps(self._cutter.finish())

    def _steps(self, atoms: Sequence[str]) -> list[Piece]:
        pieces: list[Piece] = []
        for atom in atoms:
            pieces += self._step(atom)
        return joined(pieces)

    def _step(self, atom: str) -> list[Piece]:
        if atom in self._ENDS:
            # `<|start|>assistant to=functions.x<|channel|>commentary` is one header.
            in_header = self._make is None and not self._plain and atom == "<|channel|>"
            self._header = self._header + atom if in_header else atom
            self._plain, self._make = False, None
            return []
        if self._make is not None:
            return [self._make(atom)]
        if self._plain:
            return [Said(atom)]
        if atom != "<|message|>":
            self._header += atom
            return []
        return self._begin_body()

    def _begin_body(self) -> list[Piece]:
        recipient, channel = self._RECIPIENT.search(self._header), self._channel()
        if recipient is not None and self._calls:
            self._make = CallArguments
            return [CallBegun(recipient[1])]
        self._make = Thought if channel == "analysis" else Said
        return []

    def _channel(self) -> str:
        match = self._CHANNEL.search(self._header)
        return match[1] if match else ""
