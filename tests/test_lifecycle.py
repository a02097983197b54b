"""Phases only go forward."""

from __future__ import annotations

import pytest

from app.errors import Draining, NotReady
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
def test_a_last_phase_is_never_left(last: Phase) -> None:
    lifecycle = _ready()
    assert lifecycle.enter(last, "because")
    assert lifecycle.over.is_set()
    assert not any(lifecycle.enter(phase) for phase in Phase)
    assert lifecycle.reason == "because"


def test_requests_are_admitted_while_leaving_the_load_balancer() -> None:
    lifecycle = _ready()
    assert lifecycle.enter(Phase.LEAVING)
    assert lifecycle.refusal() is None
    assert lifecycle.enter(Phase.DRAINING)
    assert not lifecycle.enter(Phase.LEAVING)
    assert isinstance(lifecycle.refusal(), Draining)


def test_a_following_node_names_the_node_that_serves() -> None:
    lifecycle = Lifecycle()
    assert lifecycle.enter(Phase.FOLLOWING)
    refusal = lifecycle.refusal()
    assert isinstance(refusal, NotReady)
    assert "node 0" in refusal.message


def test_listeners_are_called_once_for_every_phase() -> None:
    lifecycle = Lifecycle()
    phases: list[Phase] = []
    lifecycle.listeners.append(phases.append)
    for phase in (Phase.LOADING, Phase.LOADING, Phase.READY, Phase.LOADING, Phase.DEAD):
        lifecycle.enter(phase)
    assert phases == [Phase.LOADING, Phase.READY, Phase.DEAD]
