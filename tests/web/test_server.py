"""The port, bound once or several times."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from app.errors import ConfigError
from app.settings.catalogue import Settings
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
