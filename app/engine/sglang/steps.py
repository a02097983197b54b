"""One step of the engine, as its scheduler sends it to the server: ids, not text.

SGLang's scheduler fills some fifty lists for each step and sends them to its detokenizer, which
makes text of the ids and sends sixty on. For SGLang's own server in Rust it fills a few, and calls
`push_generation`: here an object of ours is called. Written against sglang 0.5.23,
`srt/managers/scheduler_components/output_streamer.py`.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

from app.engine.sglang.cells import Cells

SCORE_COLUMNS = {
    side: [
        f"{side}_token_logprobs_val",
        f"{side}_token_logprobs_idx",
        f"{side}_top_logprobs_val",
        f"{side}_top_logprobs_idx",
    ]
    for side in ("input", "output")
}
"""SGLang's columns of log-probabilities, in the order in which `Vocabulary.scored` takes them."""
BEAMS = "beam_search_output"
_MORE = (*SCORE_COLUMNS["input"], *SCORE_COLUMNS["output"], BEAMS)


class End(msgspec.Struct, array_like=True, gc=False):
    """The end of a request: a row that is its last."""

    row: int
    reason: dict[str, Any]
    """SGLang's finish reason."""
    reasoning_tokens: int
    verified: int = 0
    """Of speculative decoding: how often the model has looked at drafts."""


class Step(msgspec.Struct, array_like=True, tag="ServeStep", gc=False):
    """A row for each request that got tokens, or ended."""

    rids: list[str]
    ids: list[list[int]]
    """The new tokens."""
    prompt_tokens: list[int]
    cached_tokens: list[int]
    ends: list[End]
    more: dict[str, msgspec.Raw] = {}
    """Columns of SGLang that few requests ask for, by their names."""


class StepSender:
    """In a scheduler's process: what SGLang's output streamer takes for its server in Rust."""

    def __init__(self, sender: Any) -> None:
        """`sender`: SGLang's SenderWrapper, whose other end the server reads."""
        from sglang.srt.utils.msgpack_utils import enc_hook

        self._socket = sender.socket
        """None in all schedulers but the first of a replica."""
        self._encode = msgspec.msgpack.Encoder(enc_hook=enc_hook).encode

    def push_generation(self, payload: Any, _: Any) -> None:
        """Send a step. `payload`: SGLang's `BatchTokenIDOutput`, as far as it fills it for Rust."""
        if self._socket is None or not payload.rids:
            return
        verified = payload.spec_verify_ct
        ends = [
            End(row, reason, payload.reasoning_tokens[row], verified[row] if verified else 0)
            for row, reason in enumerate(payload.finished_reasons)
            if reason is not None
        ]
        step = Step(
            payload.rids,
            list(map(array.tolist, payload.output_ids)),
            payload.prompt_tokens,
            payload.cached_tokens,
            ends,
        )
        columns = {name: column for name in _MORE if (column := getattr(payload, name))}
        if columns:
            step.more = {name: msgspec.Raw(self._encode(each)) for name, each in columns.items()}
        self._socket.send(self._encode(step))


class Steps:
    """In the server: the messages that are steps."""

    def __init__(self) -> None:
        self.prefix = b"\x97\xa9ServeStep"
        """The first bytes of each such message: an array of seven, and its tag."""
        self.decode = msgspec.msgpack.Decoder(Step).decode
        self._cells = Cells()

    def cell(self, step: Step, name: str, row: int) -> Any:
        """One row of a column of `more`; None if there is none. Decoded once."""
        column: Any = step.more.get(name)
        if column is None:
            return None
        if type(column) is msgspec.Raw:
            column = self._cells.column(name, column)
            step.more[name] = column
        return column[row] if column and row < len(column) else None
