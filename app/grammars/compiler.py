"""llguidance: vocabulary, limits, and its errors in our words.

A compiled grammar is a `LLMatcher`, which raises nothing: after an error it stays in it. The limits
bound the time of a mask and of a token, and the memory of a grammar; figures at the constants of
`llguidance.LLParserLimits` 1.9.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from app.grammars.refused import Refused
from app.trials.worker import Unusable


def _limits(max_items_in_row: int) -> LLParserLimits:
    return LLParserLimits(
        max_items_in_row=max_items_in_row,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=100_000,
        verbose_errors=False,  # they would hold the schema
    )


LIMITS = _limits(2000)
LIMITS_OF_TEXT = _limits(300)
"""For rules that clients write: an ambiguous one costs a token 200 ms with 2000 items."""


class Vocabulary(msgspec.Struct, frozen=True):
    """The tokens of a model, as llguidance takes them."""

    tokenizer: str
    """tokenizer.json as text; `byte`: a token is a byte."""
    size: int | None = None
    """Rows of the embedding; None: as the tokenizer says."""
    end: tuple[int, ...] = ()
    """Ids of the tokens that end an answer; empty: as the tokenizer says."""

    def load(self) -> LLTokenizer:
        """Takes up to a second. Raises Unusable if llguidance cannot use the tokenizer, such as
        that of BERT (WordPiece)."""
        end = list(self.end) if self.end else None
        try:
            return LLTokenizer(self.tokenizer, n_vocab=self.size, eos_token=end)
        except BaseException as error:  # a panic of Rust is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise Unusable(str(error)[:500]) from error

    def special(self) -> dict[str, int]:
        """Text of each special token -> its id. No text of an answer matches them."""
        if not self.tokenizer.startswith("{"):
            return {}
        added: Sequence[dict[str, Any]] = orjson.loads(self.tokenizer).get("added_tokens", ())
        return {each["content"]: each["id"] for each in added if each.get("special")}


BYTES = Vocabulary("byte")
"""Of engines without a model. It takes no time to load."""


def compiled(tokenizer: LLTokenizer, grammar: str, *, limits: LLParserLimits = LIMITS) -> LLMatcher:
    """The matcher at the beginning of an answer. Raises Refused."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        mask = matcher.compute_bitmask()
        if not matcher.is_error() and not any(mask):
            raise Refused("matches no text")
    if matcher.is_error():
        raise Refused(in_our_words(matcher.get_error()))
    return matcher


_WORDS = (
    (r"oneOf constraints are not supported", "has 'oneOf' with schemas that are not known to "
     "exclude each other (give each a property with a const of its own, or use anyOf)"),
    (r"Unimplemented keys: \[\"([^\"]+)\"", "has '{0}', which cannot be enforced"),
    (r"Unsatisfiable schema", "has no value that follows all of it"),
    (r"not present in a registry|Anchor .* does not exist", "has a '$ref' to what is not in it"),
    (r"patternProperty regexes .* are not disjoint", "has 'patternProperties' whose patterns are "
     "not known to exclude each other"),
    (r"min/maxProperties only supported", "has 'minProperties' or 'maxProperties' beside optional "
     "properties"),
    (r"look-?around", "has a 'pattern' with a look-around or word boundary, which is "
     "not supported"),
    (r"backreferences are not supported", "has a 'pattern' with a backreference, which is not "
     "supported"),
    (r"regex for (integer|float) range", "has a 'minimum' or 'maximum' that cannot be enforced"),
    (r"multipleOf|multiple of", "has a 'multipleOf' with too many digits"),
    (r"invalid regex|regex parse error|regular expression|regex for", "has a 'pattern' that is not "
     "valid, or not supported"),
    (r"fuel|too complex|too many|too large|limit|exceed", "is too complex"),
    (r"unknown name|not found|undefined", "uses a name that is not defined"),
)  # fmt: skip


def in_our_words(error: str) -> str:
    """llguidance's message as a clause of ours: it may hold the schema, and its own insides."""
    for pattern, words in _WORDS:
        if (found := re.search(pattern, error)) is not None:
            return words.format(*found.groups())
    return "cannot be enforced"
