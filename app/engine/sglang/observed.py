"""SGLang's own metric series and its log of requests, which its reader would otherwise feed.

Written against sglang 0.5.23; `tests/engine/test_sglang_contract.py` fails first when it changes.
"""

from __future__ import annotations

import functools
from typing import Any

from app.engine.base import Chunk, Question


class Series:
    """SGLang's series of the tokenizer process, fed once per request and not once per token."""

    def __init__(self, collector: Any) -> None:
        """`collector`: the TokenizerManager's `metrics_collector`."""
        self._collector = collector
        # Look each series up once. SGLang does it for every observation; the labels are the
        # server's own, a handful.
        for metric in vars(collector).values():
            if callable(labels := getattr(metric, "labels", None)):
                metric.labels = functools.cache(labels)

    def finished(
        self,
        *,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int,
        reason: dict[str, Any],
        times: Any,
        first_at: float,
        constrained: bool,
        cached_details: Any,
        verified: int,
    ) -> None:
        """A request has ended.

        `reason`: SGLang's finish reason. `times`: SGLang's `APIServerReqTimeStats` of the request.
        `first_at`: when its first token came, by `time.perf_counter`. `constrained`: a grammar
        applied. `cached_details`, `verified`: SGLang's `cached_tokens_details`, `spec_verify_ct`.
        """
        collector = self._collector
        labels = dict(collector.labels)
        tokens = completion_tokens
        kind = reason.get("type")
        if kind != "abort":
            collector.observe_time_to_first_token(
                labels, times.get_first_token_latency(), stream=True
            )
            collector.observe_inter_token_latency(
                labels, times.finished_time - first_at, tokens - 1
            )
        collector.observe_one_finished_request(
            labels,
            prompt_tokens,
            tokens,
            cached_tokens,
            times.get_e2e_latency(),
            constrained,
            cached_details,
            spec_verify_ct=verified,
            is_streaming=True,
            time_per_output_token=(
                times.get_time_per_output_token(tokens) if kind != "abort" else None
            ),
        )

    def aborted(self) -> None:
        collector = self._collector
        collector.observe_one_aborted_request(collector.labels)


class LoggedRequest:
    """LOG_REQUESTS: one request in SGLang's own log."""

    def __init__(
        self, logger: Any, tokenizer: Any, id: str, question: Question, params: dict[str, Any]
    ) -> None:
        from sglang.srt.managers.io_struct import GenerateReqInput

        self.text: list[str] = []
        """The answer so far."""
        self._logger = logger
        self._request = GenerateReqInput(
            input_ids=question.prompt,
            sampling_params=params,
            rid=id,
            stream=True,
        )
        logger.log_received_request(self._request, tokenizer)

    def finished(self, chunk: Chunk, reason: dict[str, Any], took_s: float) -> None:
        """`reason`: SGLang's own. `took_s`: from the request to its last token."""
        meta_info = {
            "id": self._request.rid,
            "finish_reason": reason,
            "prompt_tokens": chunk.prompt_tokens,
            "completion_tokens": chunk.completion_tokens,
            "cached_tokens": chunk.cached_tokens,
            "e2e_latency": took_s,
        }
        text = "".join([*self.text, chunk.text])
        self._logger.log_finished_request(self._request, {"text": text, "meta_info": meta_info})
