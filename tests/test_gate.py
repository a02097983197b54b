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
    async with gate.admit() as one, gate.admit() as two, gate.admit() as three:
        assert gate.in_flight == 0
        one.arrive()
        two.arrive()
        assert gate.full
        with pytest.raises(Overloaded):
            gate.admit()
        with pytest.raises(Overloaded):
            three.arrive()
        assert gate.in_flight == 2
    assert gate.in_flight == 0
    await gate.wait_idle()


async def test_a_place_that_is_handed_over_is_held_once_and_waited_for_twice() -> None:
    gate = Gate(_ready(), max_running=1, max_waiting=1, max_bytes=100)
    async with gate.admit("first") as first:
        first.grow(60)
        first.arrive()
        heir = first.hand_over("second")
        assert gate.in_flight == 1
        assert gate.end("first", lambda: Draining("x")) == 0
        async with heir:
            pass
        assert gate.in_flight == 0
        # Its body, and what is made of it, is still in memory for its client.
        async with gate.admit() as other, gate.admit() as third:
            other.grow(30)
            other.arrive()
            third.grow(30)
            with pytest.raises(Overloaded):
                third.arrive()
        idle = asyncio.create_task(gate.wait_idle())
        await asyncio.sleep(0)
        assert not idle.done()
    await idle
    async with gate.admit() as one, gate.admit() as two:  # all its bytes are given back
        one.grow(50)
        two.grow(50)
        one.arrive()
        two.arrive()


async def test_what_ends_a_request_before_its_task_has_begun_ends_it_when_it_does() -> None:
    gate = Gate(_ready(), max_running=1, max_waiting=0)
    ticket = gate.admit("name")
    assert gate.end("name", lambda: Draining("x")) == 1
    with pytest.raises(Draining):
        async with ticket:
            await asyncio.Event().wait()
    await gate.wait_idle()


def _gate(*, max_arriving: int = 9, max_arriving_bytes: int = 999, max_bytes: int = 9999) -> Gate:
    return Gate(
        _ready(), max_running=1, max_waiting=1, max_arriving=max_arriving,
        max_arriving_bytes=max_arriving_bytes, max_bytes=max_bytes,
    )  # fmt: skip


async def _arriving(gate: Gate, size_bytes: int = 0) -> None:
    async with gate.admit() as ticket:
        ticket.grow(size_bytes)
        await asyncio.Event().wait()


async def test_past_the_bound_of_bodies_the_longest_arriving_is_ended() -> None:
    gate = _gate(max_arriving=2)
    first, second = [asyncio.create_task(_arriving(gate)) for _ in range(2)]
    await asyncio.sleep(0)
    async with gate.admit() as third:
        with pytest.raises(Overloaded, match="MAX_ARRIVING_BODIES"):
            await first
        third.arrive()
        assert not second.done()
        assert len(gate.arrivals) == 1
    second.cancel()


async def test_past_the_bound_of_bytes_the_largest_is_ended() -> None:
    gate = _gate(max_arriving_bytes=100)
    small, large, other = [asyncio.create_task(_arriving(gate, size)) for size in (0, 60, 20)]
    await asyncio.sleep(0)
    async with gate.admit() as last:
        last.grow(40)
        with pytest.raises(Overloaded, match="MAX_ARRIVING_BYTES"):
            await large
        assert not small.done()
        assert not other.done()
        assert gate.arrivals.total_bytes == 60
        last.arrive()
        last.grow(1000)  # no longer counted
        assert gate.arrivals.total_bytes == 20
    small.cancel()
    other.cancel()
    await asyncio.wait([small, other])
    assert (len(gate.arrivals), gate.arrivals.total_bytes, gate.in_flight) == (0, 0, 0)


async def test_the_bodies_of_all_requests_are_bounded_together() -> None:
    gate = _gate(max_bytes=100)
    async with gate.admit() as first:
        first.grow(150)
        first.arrive()  # one always fits
        async with gate.admit() as second:
            second.grow(1)
            with pytest.raises(Overloaded, match="MAX_REQUEST_BYTES"):
                second.arrive()
    async with gate.admit() as third, gate.admit() as fourth:
        third.grow(60)
        third.arrive()
        fourth.grow(40)
        fourth.arrive()
        assert gate.in_flight == 2


async def test_a_drain_waits_for_what_is_arriving_and_lets_it_in() -> None:
    lifecycle = _ready()
    gate = Gate(lifecycle, max_running=1, max_waiting=0)
    async with gate.admit() as ticket:
        lifecycle.enter(Phase.DRAINING)
        idle = asyncio.create_task(gate.wait_idle())
        await asyncio.sleep(0)
        assert not idle.done()
        ticket.arrive()
    await idle


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
