"""Which token wrote which piece of the text.

The engine gives tokens and text side by side, and they need not arrive together: text is held back
while it could begin a stop string, a character waits for the last of its bytes, and some tokens
have no text at all. Log-probabilities must travel with the text that they belong to.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence

import msgspec

from app.events import ScoredToken


class Alignment:
    """Assigns the text of one choice to its tokens. Stateful."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting: deque[tuple[ScoredToken, str]] = deque()
        self._text = ""
        self._at = 0
        """Offset in `_text` of the first character not yet assigned to a token."""
        self._offset = 0
        """The same in the whole text of the choice."""

    def feed(
        self, text: str, tokens: Sequence[ScoredToken], *, last: bool, whole: bool = False
    ) -> list[tuple[ScoredToken | None, str]]:
        """Each token with the text that it wrote, "" if none; None with text of no known token.

        A token whose text has not arrived waits, unless this is the `last` of the choice. `whole`:
        the text is there before its tokens, and waits for them.
        """
        self._text = self._text[self._at :] + text
        self._at = 0
        self._waiting += [(token, self._decoder.decode(token.token.raw)) for token in tokens]
        pairs: list[tuple[ScoredToken | None, str]] = []
        while self._waiting:
            token, own = self._waiting[0]
            if not self._text.startswith(own, self._at):
                if not self._offset and self._text.startswith(own.lstrip(" "), self._at):
                    own = own.lstrip(" ")  # SentencePiece's first blank is not in the text
                elif not last and own.startswith(self._text[self._at : self._at + len(own)]):
                    return pairs
                else:
                    own = ""  # a special token, or cut off with the stop string
            self._waiting.popleft()
            pairs.append((msgspec.structs.replace(token, offset=self._offset), own))
            self._advance(len(own))
        if self._at < len(self._text) and (last or not whole):
            pairs.append((None, self._text[self._at :]))
            self._advance(len(self._text) - self._at)
        return pairs

    def _advance(self, chars: int) -> None:
        self._at += chars
        self._offset += chars
