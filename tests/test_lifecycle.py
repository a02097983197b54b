"""Phases go forward only; a ticket is a place, and the handle that ends a request from outside."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import ClientGone, Draining, EngineDied, NotReady, Overloaded
from app.gate import Gate
from app.lifecycle import Lifecycle, Phase


def _ready() -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.enter(Phase.READY)
    return lifecycle


def test_a_late_ready_does_not_undo_a_drain() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.enter(Phase.LOADING)
    assert lifecycle.enter(Phase.DRAINING)
    assert not lifecycle.enter(Phase.READY)
    assert lifecycle.phase is Phase.DRAINING


@pytest.mark.parametrize("last", [Phase.STOPPED, Phase.FAILED, Phase.DEAD])
def test_the_end_is_the_end(last: Phase) -> None:
    lifecycle = _ready()
    assert lifecycle.enter(last, "because")
    assert lifecycle.over.is_set()
    assert not any(lifecycle.enter(phase) for phase in Phase)
    assert lifecycle.reason == "because"


@pytest.mark.parametrize(
    ("phase", "error"),
    [(Phase.LOADING, NotReady), (Phase.DRAINING, Draining), (Phase.DEAD, EngineDied)],
)
async def test_each_phase_refuses_in_its_own_words(phase: Phase, error: type[Exception]) -> None:
    lifecycle = Lifecycle()
    lifecycle.enter(phase)
    with pytest.raises(error):
        Gate(lifecycle, max_running=1, max_waiting=0).admit()


async def test_the_gate_holds_as_many_as_it_says() -> None:
    gate = Gate(_ready(), max_running=1, max_waiting=1)
    async with gate.admit(), gate.admit():
        assert gate.full
        with pytest.raises(Overloaded):
            gate.admit()
    assert gate.in_flight == 0
    await gate.wait_idle()


async def test_ending_a_ticket_raises_its_error_out_of_whatever_is_awaited() -> None:
    gate = Gate(_ready(), max_running=1, max_waiting=1)

    async def request() -> None:
        async with gate.admit():
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    idle = asyncio.create_task(gate.wait_idle())
    await asyncio.sleep(0)
    assert not idle.done()
    assert gate.end_all(lambda: Draining("over")) == 1
    with pytest.raises(Draining):
        await task
    assert not task.cancelled()
    assert gate.in_flight == 0
    await idle


async def test_only_the_first_reason_counts() -> None:
    gate = Gate(_ready(), max_running=1, max_waiting=1)

    async def request() -> None:
        async with gate.admit() as ticket:
            asyncio.get_running_loop().call_soon(ticket.end, ClientGone("left"))
            asyncio.get_running_loop().call_soon(ticket.end, Draining("over"))
            await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        await request()


async def test_a_cancellation_that_is_not_ours_passes_through() -> None:
    gate = Gate(_ready(), max_running=1, max_waiting=1)

    async def request() -> None:
        async with gate.admit():
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.in_flight == 0


def test_while_it_leaves_the_load_balancer_whoever_comes_is_served() -> None:
    lifecycle = _ready()
    assert lifecycle.enter(Phase.LEAVING)
    assert lifecycle.refusal() is None
    assert lifecycle.enter(Phase.DRAINING)
    assert not lifecycle.enter(Phase.LEAVING)
    assert isinstance(lifecycle.refusal(), Draining)


def test_a_node_that_only_follows_says_who_serves() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.enter(Phase.FOLLOWING)
    refusal = lifecycle.refusal()
    assert isinstance(refusal, NotReady)
    assert "node 0" in refusal.message


def test_whoever_listens_hears_every_phase_once() -> None:
    lifecycle = Lifecycle()
    heard: list[Phase] = []
    lifecycle.listeners.append(heard.append)
    for phase in (Phase.LOADING, Phase.LOADING, Phase.READY, Phase.LOADING, Phase.DEAD):
        lifecycle.enter(phase)
    assert heard == [Phase.LOADING, Phase.READY, Phase.DEAD]
