"""Clients that do not read."""

from __future__ import annotations

import socket

import pytest

from app.settings.catalogue import Settings
from app.web.connection import BoundedHttp
from app.web.listening import bind
from tests.support import serving


@pytest.fixture
def no_kernel_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener's TCP_USER_TIMEOUT would cut such a client off, too."""

    def bound(settings: Settings) -> socket.socket:
        listener = bind(settings)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
        return listener

    monkeypatch.setattr(serving, "bind", bound)


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> list[BoundedHttp]:
    """The connections that the server has cut off."""
    seen: list[BoundedHttp] = []
    closes = BoundedHttp.cut_off

    def noted(self: BoundedHttp) -> None:
        seen.append(self)
        closes(self)

    monkeypatch.setattr(BoundedHttp, "cut_off", noted)
    return seen
