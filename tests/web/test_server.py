"""The port, bound once or several times."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigError
from app.life.control import LocalControl
from app.life.host import Launched
from app.settings.catalogue import Settings
from app.web import server
from app.web.listening import bind, bind_several
from tests.support.serving import settings


def test_connections_are_spread_over_the_sockets_of_one_port() -> None:
    chosen = settings()
    listeners = bind_several(chosen, 2)
    port = listeners[0].getsockname()[1]
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
    counts = []
    for listener in listeners:
        listener.setblocking(False)
        accepted = []
        with suppress(BlockingIOError):
            while True:
                accepted.append(listener.accept()[0])
        counts.append(len(accepted))
        for each in (listener, *accepted):
            each.close()
    for each in clients:
        each.close()
    assert sum(counts) == 64
    assert min(counts) > 8


@pytest.mark.parametrize("count", [1, 2])
def test_a_machine_without_the_hosts_protocol_is_told_in_a_line(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(ConfigError, match=r"PORT: cannot listen on :::0: Address family not"):
        bind_several(settings(HOST="::"), count) if count > 1 else bind(settings(HOST="::"))


def test_a_start_that_fails_leaves_no_socket(tmp_path: Path) -> None:
    async def launch(_: Any) -> Launched:
        raise AssertionError("the start has failed before")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        chosen = settings(UDS=str(tmp_path / "s"), PORT_HEALTH=port)
        with bind(chosen) as listener:
            control = LocalControl(chosen, lambda: None)
            with pytest.raises(ConfigError, match="PORT_HEALTH: cannot listen"):
                server.run(chosen, listener, launch, lambda: None, control)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("second", [1, 2])
def test_a_port_that_is_in_use_cannot_be_bound(first: int, second: int) -> None:
    def take(count: int, chosen: Settings) -> list[socket.socket]:
        return bind_several(chosen, count) if count > 1 else [bind(chosen)]

    held = take(first, settings())
    with pytest.raises(ConfigError, match="cannot listen"):
        take(second, settings(PORT=str(held[0].getsockname()[1])))
    for each in held:
        each.close()
