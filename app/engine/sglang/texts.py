"""Token ids to text, as they come: what SGLang's detokenizer does, without a process for it.

Written against sglang 0.5.23, `srt/managers/detokenizer_manager.py`, whose texts these are, step by
step (`tests/engine/test_texts.py`). It decodes each token twice, behind those before it, because a
token's text may depend on them. With most tokenizers it does so only for pieces of a character; all
other tokens have one text, which is kept here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from app.logs.setup import log

_BEFORE = 5
"""Tokens of the prompt that SGLang decodes with the first of the answer."""
_LONGEST = 256
"""Tokens without a whole character that are kept, and decoded again with each that comes: what a
client can have a model write. SGLang keeps all."""
_BROKEN = "\ufffd"
"""What a piece of a character becomes."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""A token that is one byte, where a character that has no token is several of these."""


class Detokenizer:
    """Of one tokenizer. Belongs to the event loop."""

    def __init__(
        self, tokenizer: Any, *, tool_call_parser: str | None = None, one_by_one: bool = False
    ) -> None:
        """`tool_call_parser`: SGLang's, whose closing tokens belong to the text. `one_by_one`: its
        `disable_tokenizer_batch_decode`. Imports SGLang."""
        from sglang.srt.managers.detokenizer_manager import DetokenizerManager
        from sglang.srt.parser.response_template import tool_close_token_ids
        from sglang.srt.utils.patch_tokenizer import decode_without_hf_kwargs
        from sglang.utils import find_printable_text

        self.printable = find_printable_text
        """What of a text that ends with a piece of a character may be shown."""
        self._decode_slowly = decode_without_hf_kwargs
        self._trim = DetokenizerManager.trim_matched_stop
        self._tokenizer = tokenizer
        self._fast = getattr(tokenizer, "is_fast", False) or one_by_one
        try:
            self._size: int | None = len(tokenizer)
        except TypeError:
            self._size = getattr(tokenizer, "vocab_size", None)
        # By these names SGLang's method looks for them.
        self.is_tool_call_parser_gpt_oss = tool_call_parser == "gpt-oss"
        self.tool_close_token_ids = tool_close_token_ids(tool_call_parser, tokenizer)
        letter = _letter(tokenizer) if _is_tokenwise(tokenizer) else None
        self._texts = {
            skip: None if letter is None else _Texts(self, letter, skip=skip)
            for skip in (True, False)
        }

    @property
    def knows_texts(self) -> bool:
        """Most tokens are not decoded, but looked up."""
        return self._texts[True] is not None

    def stream(self, prompt: Sequence[int], sampling: Any) -> TextStream:
        """`sampling`: SGLang's SamplingParams of the request."""
        return TextStream(self, prompt, sampling, self._texts[sampling.skip_special_tokens])

    def decode(self, ids: Sequence[int], *, skip: bool, spaces: bool = True) -> str:
        """`skip`: leave special tokens out; `spaces`: between them, where the tokenizer knows it.
        Ids that no token has, as of pictures, count as 0."""
        if not ids:
            return ""
        known = self._known(ids)
        text: str = (
            self._tokenizer.decode(
                known, skip_special_tokens=skip, spaces_between_special_tokens=spaces
            )
            if self._fast
            else self._decode_slowly(self._tokenizer, known, skip)
        )
        return text

    def is_byte(self, id: int) -> bool:
        (token,) = self._tokenizer.convert_ids_to_tokens(self._known([id]))
        return isinstance(token, str) and _BYTE.fullmatch(token) is not None

    def _known(self, ids: Sequence[int]) -> list[int]:
        size = self._size
        return [id if id >= 0 and (size is None or id < size) else 0 for id in ids]

    def trimmed(self, answer: Any, reason: dict[str, Any], *, keep: bool) -> Any:
        """An answer, as text or as ids, without what has ended it; `keep`: with it. `reason`:
        SGLang's finish reason."""
        return self._trim(self, answer, reason, keep)


def detokenizer_of(manager: Any) -> Detokenizer:
    """`manager`: SGLang's TokenizerManager."""
    options = manager.server_args.resolved_dict()
    detokenizer = Detokenizer(
        manager.tokenizer,
        tool_call_parser=options["tool_call_parser"],
        one_by_one=options["disable_tokenizer_batch_decode"],
    )
    if not detokenizer.knows_texts:
        log.warning("each token is decoded: DETOKENIZER_PROCESS=true does it beside this process")
    return detokenizer


class TextStream:
    """Of one choice. `feed` with the ids of each step, and `end` with the last."""

    __slots__ = (
        "_before", "_detokenizer", "_held", "_keep", "_parts", "_shown", "_skip", "_spaces",
        "_texts",
    )  # fmt: skip

    def __init__(
        self,
        detokenizer: Detokenizer,
        prompt: Sequence[int],
        sampling: Any,
        texts: _Texts | None,
    ) -> None:
        self._detokenizer = detokenizer
        self._skip = sampling.skip_special_tokens
        self._spaces = sampling.spaces_between_special_tokens
        self._keep = sampling.no_stop_trim
        # A stop string is looked for in the whole answer.
        stops = sampling.stop_strs or sampling.stop_regex_strs
        self._parts: list[str] | None = [] if stops else None
        self._texts = texts
        self._shown = 0
        """Characters of the text of `_held` that were given out."""
        self._before: list[int] = list(prompt[-_BEFORE:])
        self._held: list[int] | None = []
        """Tokens behind `_before` whose text is not complete. None: there are none, and the text of
        the next does not depend on those before it."""
        if texts is not None and texts.end_whole(self._before):
            self._held = None

    def feed(self, ids: Sequence[int]) -> str:
        """The text that these tokens add."""
        if self._held is None and (text := self._known(ids)) is not None:
            if self._parts is not None:
                self._parts.append(text)
            return text
        held = self._hold(ids)
        text = self._behind(held)
        shown = self._shown
        if not _is_complete(text) and len(held) < _LONGEST:
            printable: str = self._detokenizer.printable(text)
            self._shown = len(printable)
            return printable[shown:]
        self._shown = 0
        if self._parts is not None:
            self._parts.append(text)
        self._before = held
        texts = self._texts
        self._held = None if texts is not None and texts.end_whole(held) else []
        return text[shown:]

    def end(self, ids: Sequence[int], reason: dict[str, Any]) -> str:
        """The text that the last tokens add. `reason`: SGLang's finish reason."""
        trimmed = self._detokenizer.trimmed
        last = self._hold(ids)
        if last:
            last = trimmed(last, reason, keep=self._keep)
        text = self._behind(last)
        if self._parts is None or not isinstance(reason.get("matched"), str):
            return text[self._shown :]
        complete = "".join(self._parts)
        whole: str = trimmed(complete + text, reason, keep=self._keep)
        return whole[len(complete) + self._shown :]

    def whole(self, ids: Sequence[int], reason: dict[str, Any]) -> str:
        """The text of a sequence that ended so, which was not fed."""
        ids = self._detokenizer.trimmed(list(ids), reason, keep=self._keep)
        return self._decode(ids)

    def _known(self, ids: Sequence[int]) -> str | None:
        """None: that of one of them depends on those before it."""
        texts = self._texts
        assert texts is not None
        if len(ids) == 1:
            return texts[ids[0]]
        each = [texts[id] for id in ids]
        return None if None in each else "".join(each)  # type: ignore[arg-type]  # none is None

    def _hold(self, ids: Sequence[int]) -> list[int]:
        if self._held is None:
            assert self._texts is not None
            self._before = [self._texts.letter]
            self._held = []
        self._held += ids
        return self._held

    def _behind(self, held: list[int]) -> str:
        before = self._before
        return self._decode([*before, *held])[len(self._decode(before)) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._detokenizer.decode(ids, skip=self._skip, spaces=self._spaces)


class _Texts(dict[int, str | None]):
    """The text of each token that was needed; None of one whose text depends on others."""

    def __init__(self, detokenizer: Detokenizer, letter: int, *, skip: bool) -> None:
        """`letter`: a token that is one."""
        self._detokenizer = detokenizer
        self.letter = letter
        self._skip = skip

    def __missing__(self, id: int) -> str | None:
        text = self._detokenizer.decode([self.letter, id], skip=self._skip)[1:]
        alone = _BROKEN not in text and not self._detokenizer.is_byte(id)
        self[id] = text if alone else None
        return self[id]

    def end_whole(self, ids: Sequence[int]) -> bool:
        """What follows these tokens has its own text. The bytes of a character may go on behind one
        that is a byte, whatever is left out between the two."""
        for id in reversed(ids):
            if (text := self[id]) != "":
                return text is not None
        return False


def _letter(tokenizer: Any) -> int | None:
    for letter in "axe":
        ids = tokenizer.convert_tokens_to_ids([letter])
        if ids[0] is not None and tokenizer.decode(ids) == letter:
            return int(ids[0])
    return None


def _is_tokenwise(tokenizer: Any) -> bool:
    """The text of tokens is that of each of them, one behind the other, but for the pieces of
    characters, and but for a blank that is taken from the first."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None or not all(
        getattr(getattr(type(tokenizer), name, None), "__module__", "").startswith(
            "transformers.tokenization_"
        )
        for name in ("decode", "_decode")
    ):
        return False
    if tokenizer.clean_up_tokenization_spaces and (
        type(tokenizer.backend_tokenizer.model).__name__ != "BPE"
        or tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    ):
        return False
    state = json.loads(decoder.__getstate__())
    return all(map(_keeps_tokens_apart, state.get("decoders", [state])))


def _keeps_tokens_apart(decoder: dict[str, Any]) -> bool:
    """One of the decoders of the library `tokenizers`, as JSON."""
    match decoder:
        case {"type": "ByteLevel" | "ByteFallback" | "Fuse"}:
            return True
        case {"type": "Replace", "pattern": {"String": pattern}}:
            return len(pattern) == 1
        case {"type": "Strip", "start": 0 | 1, "stop": 0}:
            return True
    return False


def _is_complete(text: str) -> bool:
    return bool(text) and not text.endswith(_BROKEN)
