"""`Exchange` against SGLang's real messages and real sockets; run by test_exchange.py in a process
of its own, since importing SGLang changes the process it is imported into."""

# ruff: noqa: E402, ASYNC110
from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import warnings
from array import array
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

warnings.simplefilter("ignore")
os.environ["SGLANG_USE_PICKLE_IPC"] = "0"
sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest
import zmq
import zmq.asyncio
from sglang.srt.beam_search.types import BeamSearchSequence
from sglang.srt.managers import io_struct
from sglang.srt.managers.io_struct import (
    AbortReq,
    BatchStrOutput,
    BatchTokenIDOutput,
    BeamSearchOutput,
    FlushCacheReqOutput,
    FreezeGCReq,
)
from sglang.srt.sampling.sampling_params import SamplingParams

from app.engine.base import Question
from app.engine.sglang.exchange import Exchange
from app.engine.sglang.steps import StepSender
from app.errors import InternalError, InvalidRequest, Overloaded
from app.types import Sampling, Scoring

COLUMNS = [
    field.name for field in io_struct.msgspec.structs.fields(BatchStrOutput)
    if field.name not in ("rids", "http_worker_ipcs")
]  # fmt: skip


class Engine:
    """The engine's ends of the sockets."""

    def __init__(self, *, ids: bool = False) -> None:
        """`ids`: it has no detokenizer."""
        folder = tempfile.mkdtemp()
        context = zmq.Context.instance()
        self.asked, self.says = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        ours = zmq.asyncio.Context.instance()
        to_engine, from_engine = ours.socket(zmq.PUSH), ours.socket(zmq.PULL)
        to_engine.bind(f"ipc://{folder}/a")
        from_engine.bind(f"ipc://{folder}/b")
        self.asked.connect(f"ipc://{folder}/a")
        self.says.connect(f"ipc://{folder}/b")
        assert zmq.Socket.shadow(to_engine.underlying).poll(10_000, zmq.POLLOUT)  # connected
        self.dispatched: list[Any] = []
        self.observed: list[str] = []
        collector = SimpleNamespace(
            labels={},
            **{
                name: lambda *_, _name=name, **__: self.observed.append(_name)
                for name in (
                    "observe_time_to_first_token", "observe_inter_token_latency",
                    "observe_one_finished_request", "observe_one_aborted_request",
                )
            },
        )  # fmt: skip
        manager = SimpleNamespace(
            send_to_scheduler=to_engine, recv_from_detokenizer=from_engine,
            request_logger=SimpleNamespace(log_requests=False),
            soft_watchdog=SimpleNamespace(disable=nullcontext),
            sampling_params_class=SamplingParams, preferred_sampling_params=None, tokenizer=None,
            model_config=SimpleNamespace(vocab_size=100), disaggregation_mode=None,
            enable_trace=False, enable_priority_scheduling=False, default_priority_value=None,
            tokenizer_ipc_name=None, enable_metrics=True, metrics_collector=collector,
            last_receive_tstamp=0.0, _result_dispatcher=self.dispatched.append,
            rid_to_state={"embedding": None},
        )  # fmt: skip
        vocabulary = SimpleNamespace(scored=lambda *columns: tuple(map(tuple, columns)))
        detokenizer = SimpleNamespace(stream=lambda *_: Letters()) if ids else None
        self.exchange = Exchange(
            manager,
            vocabulary,
            detokenizer,
            widest_stride=1,  # type: ignore[arg-type]
        )
        self._sender = StepSender(SimpleNamespace(socket=self.says))

    async def question(self) -> Any:
        while not self.asked.poll(0):
            await asyncio.sleep(0.01)
        return io_struct.msgpack_decode(self.asked.recv())

    def say(self, message: Any) -> None:
        self.says.send(io_struct.msgpack_encode(message))

    def output(self, rids: list[str], texts: list[str], **columns: Any) -> None:
        rows = len(rids)
        values: dict[str, Any] = dict.fromkeys(COLUMNS)
        values |= {
            "finished_reasons": [None] * rows, "output_strs": texts,
            "output_ids": [array("q", [7])] * rows, "prompt_tokens": [3] * rows,
            "completion_tokens": [len(text) for text in texts], "reasoning_tokens": [0] * rows,
            "cached_tokens": [1] * rows,
        }  # fmt: skip
        self.say(BatchStrOutput(rids=rids, http_worker_ipcs=[None] * rows, **(values | columns)))

    def step(self, rids: list[str], ids: list[list[int]], **columns: Any) -> None:
        """As SGLang's output streamer fills it for its server in Rust."""
        rows = len(rids)
        values: dict[str, Any] = dict.fromkeys(
            field.name for field in io_struct.msgspec.structs.fields(BatchTokenIDOutput)
        )
        values |= {
            "rids": rids, "output_ids": [array("q", each) for each in ids],
            "finished_reasons": [None] * rows, "prompt_tokens": [3] * rows,
            "reasoning_tokens": [0] * rows, "cached_tokens": [1] * rows, "spec_verify_ct": [],
        }  # fmt: skip
        self._sender.push_generation(SimpleNamespace(**(values | columns)), {})


class Letters:
    """In place of `TextStream`: each id is a letter."""

    def feed(self, ids: Sequence[int]) -> str:
        return "".join(chr(96 + id) for id in ids)

    def end(self, ids: Sequence[int], reason: dict[str, Any]) -> str:
        return self.feed(ids) + "." if reason["type"] == "stop" else ""

    def whole(self, ids: Sequence[int], _: dict[str, Any]) -> str:
        return self.feed(ids)


MOST_CALLS = 13
STOP = {"type": "stop", "matched": 2}


async def each_row_reaches_its_own_request_only() -> None:
    engine = Engine()
    exchange = engine.exchange
    plain, scored = exchange.inbox(), exchange.inbox()
    sampling = {"max_new_tokens": 9, "stream_interval": 5}
    exchange.ask("a", Question(prompt=[1, 2, 3], sampling=Sampling()), sampling, plain, 1)
    asked = await engine.question()
    assert (asked.rid, list(asked.input_ids), asked.stream) == ("a", [1, 2, 3], True)
    assert (asked.sampling_params.max_new_tokens, asked.sampling_params.stream_interval) == (9, 5)
    assert (asked.return_logprob, asked.logprob_start_len) == (False, -1)
    wanted = Question(
        prompt=[4],
        sampling=Sampling(),
        scoring=Scoring(top=1, prompt_from=0),
        token_ids=True,
        gates_grammar=True,
    )
    exchange.ask("b", wanted, {}, scored)
    asked = await engine.question()
    assert (asked.top_logprobs_num, asked.logprob_start_len) == (1, 0)
    assert asked.require_reasoning
    logprobs = {
        "output_token_logprobs_val": [None, None, [-0.5]],
        "output_token_logprobs_idx": [None, None, [7]],
        "output_top_logprobs_val": [None, None, [[-0.5]]],
        "output_top_logprobs_idx": [None, None, [[7]]],
        "input_token_logprobs_val": [None, None, [None, -1.0]],
        "input_token_logprobs_idx": [None, None, [4, 5]],
        "input_top_logprobs_val": [None, None, [None, [-1.0]]],
        "input_top_logprobs_idx": [None, None, [None, [5]]],
    }
    engine.output(["unknown", "a", "b"], ["!", "x", "yy"], **logprobs)
    (chunk,) = await plain.take()
    assert (chunk.index, chunk.text, chunk.completion_tokens, chunk.finish) == (1, "x", 1, None)
    assert (chunk.prompt_tokens, chunk.cached_tokens, chunk.ids) == (3, 1, ())
    (chunk,) = await scored.take()
    assert (chunk.text, list(chunk.ids)) == ("yy", [7])
    assert chunk.scored == ((-0.5,), (7,), ([-0.5],), ([7],))
    assert chunk.prompt[:] == ((None, -1.0), (4, 5), (None, [-1.0]), (None, [5]))
    logprobs = {name: [*column[:2], []] for name, column in logprobs.items()}
    engine.output(["b", "a"], ["z", "xy"], finished_reasons=[None, STOP], reasoning_tokens=[0, 1])
    (chunk,) = await plain.take()
    assert (chunk.finish, chunk.matched, chunk.reasoning_tokens) == ("stop", 2, 1)
    assert engine.observed[-1] == "observe_one_finished_request"
    (chunk,) = await scored.take()
    assert (chunk.text, chunk.prompt) == ("z", ())
    exchange.close()


async def ids_become_the_same_chunks() -> None:
    engine = Engine(ids=True)
    exchange = engine.exchange
    plain, scored, searching = exchange.inbox(), exchange.inbox(), exchange.inbox()
    exchange.ask("a", Question(prompt=[1], sampling=Sampling()), {}, plain, 1)
    wanted = Question(
        prompt=[4], sampling=Sampling(), scoring=Scoring(top=1, prompt_from=0), token_ids=True
    )
    exchange.ask("b", wanted, {}, scored)
    exchange.ask("c", Question(prompt=[1], sampling=Sampling()), {"n": 2}, searching)
    logprobs = {
        "output_token_logprobs_val": [[], [], [-0.5]],
        "output_token_logprobs_idx": [[], [], [7]],
        "output_top_logprobs_val": [[], [], [[-0.5]]],
        "output_top_logprobs_idx": [[], [], [[7]]],
        "input_token_logprobs_val": [[], [], [None, -1.0]],
        "input_token_logprobs_idx": [[], [], [4, 5]],
        "input_top_logprobs_val": [[], [], [None, [-1.0]]],
        "input_top_logprobs_idx": [[], [], [None, [5]]],
    }
    engine.step(["unknown", "a", "b"], [[9], [1, 2], [3]], **logprobs)
    (chunk,) = await plain.take()
    assert (chunk.index, chunk.text, chunk.completion_tokens, chunk.finish) == (1, "ab", 2, None)
    assert (chunk.prompt_tokens, chunk.cached_tokens, chunk.ids) == (3, 1, ())
    (chunk,) = await scored.take()
    assert (chunk.text, list(chunk.ids), chunk.completion_tokens) == ("c", [3], 1)
    assert chunk.scored == ((-0.5,), (7,), ([-0.5],), ([7],))
    assert chunk.prompt[:] == ((None, -1.0), (4, 5), (None, [-1.0]), (None, [5]))
    engine.say(FreezeGCReq())  # SGLang's, to its detokenizer
    engine.step(["b", "a"], [[], [5]], finished_reasons=[None, STOP], reasoning_tokens=[0, 1])
    (chunk,) = await plain.take()
    assert (chunk.text, chunk.finish, chunk.matched) == ("e.", "stop", 2)
    assert (chunk.completion_tokens, chunk.reasoning_tokens) == (3, 1)
    assert engine.observed[-1] == "observe_one_finished_request"
    (chunk,) = await scored.take()
    assert (chunk.text, chunk.prompt, chunk.completion_tokens) == ("", (), 1)
    sequences = [
        BeamSearchSequence(
            tokens=tokens, cum_logprob=0.0, beam_score=0.0,
            finish_reason={"type": "length", "length": len(tokens)},
        )
        for tokens in ([1, 2], [3])
    ]  # fmt: skip
    found = BeamSearchOutput(sequences=sequences)
    engine.step(["c"], [[0]], finished_reasons=[STOP], beam_search_output=[found])
    first, second = await searching.take()
    assert (first.index, first.text, first.completion_tokens, first.finish) == (
        0,
        "ab",
        2,
        "length",
    )
    assert (second.index, second.text, second.ids) == (1, "c", [3])
    engine.step(["gone"], [[1]])
    assert not exchange.broken.done()
    exchange.close()


async def a_token_costs_few_calls() -> None:
    """Of this process; of a step that has one token for each of 64 streams."""
    engine = Engine(ids=True)
    question = Question(prompt=[1], sampling=Sampling())
    names = [f"{no:032}" for no in range(64)]
    for name in names:
        engine.exchange.ask(name, question, {}, engine.exchange.inbox())
    raws = []
    socket = SimpleNamespace(send=raws.append)
    sender = StepSender(SimpleNamespace(socket=socket))
    engine._sender = sender
    for _ in range(2):
        engine.step(names, [[1]] * 64)
    deliver = engine.exchange._delivery.take
    deliver(raws[0])  # the first of a request costs more
    calls = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    deliver(raws[1])
    sys.setprofile(None)
    print(f"calls for each token: {calls / 64:.1f}", file=sys.stderr)
    assert calls / 64 <= MOST_CALLS
    engine.exchange.close()


async def an_abort_reaches_the_engine_once_and_ends_the_requests_output() -> None:
    engine = Engine()
    inbox = engine.exchange.inbox()
    pending = engine.exchange.ask("a", Question(prompt=[1], sampling=Sampling()), {}, inbox)
    await engine.question()
    engine.exchange.abort(pending)
    engine.exchange.abort(pending)
    assert isinstance(message := await engine.question(), AbortReq)
    assert message.rid == "a"
    assert not engine.asked.poll(50)
    engine.output(["a"], ["late"])
    taking = asyncio.create_task(inbox.take())
    await asyncio.sleep(0.05)
    assert not taking.done()
    taking.cancel()
    engine.exchange.close()


async def a_lost_engine_refuses_requests_and_an_abort_is_no_error() -> None:
    engine = Engine()
    inbox = engine.exchange.inbox()
    pending = engine.exchange.ask("a", Question(prompt=[1], sampling=Sampling()), {}, inbox)
    await engine.question()
    engine.asked.close(linger=0)
    deadline = asyncio.get_running_loop().time() + 10
    with pytest.raises(InternalError):  # noqa: PT012
        while asyncio.get_running_loop().time() < deadline:  # until its end is noticed
            engine.exchange.ask("b", Question(prompt=[1], sampling=Sampling()), {}, inbox)
            await asyncio.sleep(0.01)
    engine.exchange.abort(pending)
    engine.exchange.close()


async def a_request_that_the_engine_ends_is_an_error() -> None:
    engine = Engine()
    for finish, error in (
        ({"type": "abort", "message": "m", "status_code": 400}, InvalidRequest),
        ({"type": "abort", "message": "m", "status_code": 503}, Overloaded),
        ({"type": "stop", "matched": "NaN happened"}, InternalError),
    ):
        inbox = engine.exchange.inbox()
        engine.exchange.ask("a", Question(prompt=[1], sampling=Sampling()), {}, inbox)
        engine.output(["a"], [""], finished_reasons=[finish])
        assert await _failure(inbox) is error
    inbox = engine.exchange.inbox()
    engine.exchange.ask("a", Question(prompt=[1], sampling=Sampling()), {}, inbox)
    refused = {"type": "abort", "message": "The queue is full.", "status_code": 503}
    engine.say(AbortReq(rid="a", finished_reason=refused))
    assert await _failure(inbox) is Overloaded
    engine.exchange.close()


async def other_messages_go_to_sglang_and_an_unreadable_one_breaks_the_engine() -> None:
    engine = Engine()
    engine.say(FlushCacheReqOutput(success=True))
    while not engine.dispatched:
        await asyncio.sleep(0.01)
    assert isinstance(engine.dispatched[0], FlushCacheReqOutput)
    # SGLang itself handles embeddings; it must get no abort of a request that it does not know.
    engine.say(AbortReq(rid="forgotten"))
    engine.say(AbortReq(rid="embedding"))
    while len(engine.dispatched) < 2:
        await asyncio.sleep(0.01)
    assert engine.dispatched[1].rid == "embedding"
    engine.says.send(b"\xc1nonsense")
    assert "could not be read" in await engine.exchange.broken
    engine.exchange.close()


async def sampling_that_sglang_refuses_is_never_sent() -> None:
    engine = Engine()
    question = Question(prompt=[1], sampling=Sampling())
    with pytest.raises(ValueError, match="top_p"):
        engine.exchange.ask("a", question, {"top_p": 7}, engine.exchange.inbox())
    assert not engine.asked.poll(50)
    engine.exchange.close()


async def _failure(inbox: Any) -> type[Exception]:
    try:
        await asyncio.wait_for(inbox.take(), 5)
    except Exception as error:
        return type(error)
    raise AssertionError("no failure")


CASES = (
    each_row_reaches_its_own_request_only,
    ids_become_the_same_chunks,
    a_token_costs_few_calls,
    an_abort_reaches_the_engine_once_and_ends_the_requests_output,
    a_lost_engine_refuses_requests_and_an_abort_is_no_error,
    a_request_that_the_engine_ends_is_an_error,
    other_messages_go_to_sglang_and_an_unreadable_one_breaks_the_engine,
    sampling_that_sglang_refuses_is_never_sent,
)

if __name__ == "__main__":
    for case in CASES:
        asyncio.run(asyncio.wait_for(case(), 30))
        print(case.__name__.replace("_", " "))
