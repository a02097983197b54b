"""Not a model: what a search with beams does where the scheduler has no rows left for it.

SGLang imports every module of this package in its scheduler (`srt/models/registry.py`). Written
against 0.5.23, `srt/beam_search/coordinator.py`. There requests that are admitted after a search,
and before its prompt has been read, may take the rows that its beams need, and an assertion then
ends the scheduler. Here it ends that search. Drop when SGLang sets the rows aside.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from sglang.srt.beam_search.coordinator import BeamCoordinator
from sglang.srt.managers.schedule_batch import FINISH_ABORT


def _begin(self: Any, req: Any, pos: int, logits_output: Any, tick: int = 0) -> None:
    group = req.beam_group
    wanted = 0 if group.next_step_is_final() else group.beam_width - 1
    if wanted > self.req_to_token_pool.available_size():
        # SGLang looks at it when it takes up the prompt's result, and frees what there is.
        req.to_finish = FINISH_ABORT("no rows for the beams", HTTPStatus.SERVICE_UNAVAILABLE)
        self._stash_next_tokens([req.kv.req_pool_idx], [0])
        return
    _their_begin(self, req, pos, logits_output, tick)


_their_begin: Any = BeamCoordinator.select_leader_prefill
BeamCoordinator.select_leader_prefill = _begin
