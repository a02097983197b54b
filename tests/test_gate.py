"""A ticket is a request's place in the server, and the handle that ends it from outside."""

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


async def test_the_gate_admits_as_many_requests_as_configured() -> None:
    gate = Gate(_ready(), max_running=1, max_waiting=1)
    async with gate.admit(), gate.admit():
        assert gate.full
        with pytest.raises(Overloaded):
            gate.admit()
    assert gate.in_flight == 0
    await gate.wait_idle()


@pytest.mark.parametrize(
    ("phase", "error"),
    [(Phase.LOADING, NotReady), (Phase.DRAINING, Draining), (Phase.DEAD, EngineDied)],
)
async def test_each_phase_refuses_with_its_own_error(phase: Phase, error: type[Exception]) -> None:
    lifecycle = Lifecycle()
    lifecycle.enter(phase)
    with pytest.raises(error):
        Gate(lifecycle, max_running=1, max_waiting=0).admit()


async def test_ending_a_ticket_raises_its_error_from_whatever_the_task_awaits() -> None:
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


async def test_only_the_first_error_counts() -> None:
    gate = Gate(_ready(), max_running=1, max_waiting=1)

    async def request() -> None:
        async with gate.admit() as ticket:
            asyncio.get_running_loop().call_soon(ticket.end, ClientGone("left"))
            asyncio.get_running_loop().call_soon(ticket.end, Draining("over"))
            await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        await request()


async def test_a_cancellation_from_outside_the_gate_passes_through() -> None:
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
