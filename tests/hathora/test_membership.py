"""When the endpoint is attached and when it is removed, over a registration that tests drive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.endpoint import Network, NetworkState
from app.hathora import membership as module
from app.hathora.failures import NetworkFailed
from app.hathora.membership import Membership
from app.hathora.network import Place
from tests.support.serving import eventually

PLACE = Place(
    group="llm-serve-z",
    scope="zonal",
    location="z",
    endpoint="vm-1:8000",
    project="p",
)


class Scripted:
    """A `Registration` that records its calls.

    `join` waits for `hold`, then raises the next of `failures`.
    """

    def __init__(self, *failures: NetworkFailed) -> None:
        self.place = PLACE
        self.calls: list[str] = []
        self.attached = False
        self.failures = list(failures)
        self.hold: threading.Event | None = None

    def load(self) -> None:
        self.calls.append("load")

    def join(self, stop: threading.Event) -> Place:
        self.calls.append("join")
        if self.hold is not None:
            self.hold.wait()
        self.attached = True  # the call was in progress
        if stop.is_set():
            raise NetworkFailed("stopped", permanent=False)
        if self.failures:
            self.attached = False
            raise self.failures.pop(0)
        return PLACE

    def leave(self) -> bool:
        self.calls.append("leave")
        was_attached, self.attached = self.attached, False
        return was_attached


@asynccontextmanager
async def kept(registration: Any) -> AsyncIterator[tuple[Membership, list[Network]]]:
    reports: list[Network] = []
    membership = Membership(registration, reports.append)
    keeping = asyncio.create_task(membership.keep())
    await eventually(lambda: "leave" in registration.calls or bool(reports))
    try:
        yield membership, reports
    finally:
        membership.finish()
        async with asyncio.timeout(5):
            await keeping


def states(reports: list[Network]) -> list[str]:
    return [str(network.state) for network in reports]


async def test_the_endpoint_is_attached_when_ready_and_removed_when_not() -> None:
    registration = Scripted()
    async with kept(registration) as (membership, reports):
        membership.want(False)  # loading, warming
        membership.want(True)
        await eventually(lambda: registration.attached)
        await eventually(lambda: membership.network.state is NetworkState.REGISTERED)
        membership.want(False)
        await eventually(lambda: membership.network.state is NetworkState.LEFT)
        assert not registration.attached
    assert states(reports) == ["registering", "registered", "leaving", "left"]
    assert (reports[1].group, reports[1].endpoint) == ("llm-serve-z", "vm-1:8000")
    assert registration.calls == ["load", "leave", "join", "leave"]


async def test_an_endpoint_of_an_earlier_process_is_removed_first() -> None:
    registration = Scripted()
    registration.attached = True
    async with kept(registration):
        assert registration.calls == ["load", "leave"]
        assert not registration.attached


async def test_a_server_that_ends_while_registering_is_still_removed() -> None:
    registration = Scripted()
    registration.hold = threading.Event()
    async with kept(registration) as (membership, reports):
        membership.want(True)
        await eventually(lambda: "join" in registration.calls)
        membership.want(False)
        registration.hold.set()
        await eventually(lambda: membership.network.state is NetworkState.LEFT)
    assert registration.calls[-2:] == ["join", "leave"]
    assert not registration.attached
    assert "failed" not in states(reports)


async def test_a_failed_registration_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
    registration = Scripted(*[NetworkFailed("503", permanent=False)] * 2)
    async with kept(registration) as (membership, reports):
        membership.want(True)
        await eventually(lambda: membership.network.state is NetworkState.REGISTERED)
        assert (await membership.first).args == ("503",)
        assert membership.network.failures == 2
        assert membership.network.error is None
    assert [network.error for network in reports if network.state is NetworkState.FAILED] == [
        "503",
        "503",
    ]


async def test_the_pause_before_a_retry_ends_with_the_server() -> None:
    registration = Scripted(NetworkFailed("403", permanent=True))
    async with kept(registration) as (membership, _):
        membership.want(True)
        await eventually(lambda: membership.network.state is NetworkState.FAILED)
    assert registration.calls[-1] == "leave"


async def test_an_unreachable_group_is_reported_before_the_model_is_loaded() -> None:
    class Refused(Scripted):
        def leave(self) -> bool:
            super().leave()
            raise NetworkFailed("403: compute.networkEndpointGroups.list", permanent=True)

    async with kept(Refused()) as (membership, reports):
        error = await membership.first
        assert error is not None
        assert error.permanent
        assert states(reports) == ["failed"]


async def test_a_fault_in_the_client_library_does_not_keep_the_endpoint_attached() -> None:
    class Faulty(Scripted):
        def join(self, stop: threading.Event) -> Place:
            super().join(stop)
            raise KeyError("a field that is not there")

    registration = Faulty()
    async with kept(registration) as (membership, reports):
        membership.want(True)
        await eventually(lambda: membership.network.state is NetworkState.FAILED)
        assert registration.attached
    assert not registration.attached
    assert reports[-1].state is NetworkState.LEFT


async def test_a_retired_server_is_not_registered_again() -> None:
    registration = Scripted()
    async with kept(registration) as (membership, _):
        membership.want(True)
        await eventually(lambda: membership.network.state is NetworkState.REGISTERED)
        membership.retire()
        membership.want(True)
        await eventually(lambda: membership.network.state is NetworkState.LEFT)
        assert not registration.attached


async def test_an_endpoint_removed_from_outside_is_attached_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CONFIRM_EVERY_S", 0.02)
    registration = Scripted()
    async with kept(registration) as (membership, reports):
        membership.want(True)
        await eventually(lambda: membership.network.state is NetworkState.REGISTERED)
        registration.attached = False
        await eventually(lambda: registration.attached)
        registration.failures.append(NetworkFailed("503", permanent=False))
        await eventually(lambda: not registration.failures)
        assert states(reports) == ["registering", "registered"]


async def test_nothing_is_registered_after_the_end() -> None:
    registration = Scripted()
    async with kept(registration) as (membership, _):
        membership.finish()
        membership.want(True)
    assert "join" not in registration.calls
    assert not membership.first.done()
