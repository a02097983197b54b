"""What web/connection.py and web/listening.py override and use of uvicorn is still as it was."""

from __future__ import annotations

import inspect
import re

import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.web.connection import BoundedHttp
from app.web.listening import Http


async def test_uvicorn_is_still_as_our_connection_expects() -> None:
    config = uvicorn.Config(app=lambda *_: None, http=HttpToolsProtocol)
    theirs = HttpToolsProtocol(config, ServerState(), {})
    overridden = {
        "connection_made", "connection_lost", "data_received", "shutdown", "_should_upgrade",
        "_start_asgi_task", "on_message_begin", "on_url", "on_header", "on_headers_complete",
        "on_body", "on_message_complete", "timeout_keep_alive_handler", "pause_writing",
        "resume_writing", "eof_received",
    }  # fmt: skip
    for name, ours in vars(BoundedHttp).items():
        if name in overridden:
            signature = inspect.signature(getattr(HttpToolsProtocol, name))
            assert list(inspect.signature(ours).parameters) == list(signature.parameters)
        elif not name.startswith("__"):
            assert not hasattr(theirs, name), f"{name} is now a name of uvicorn's, too"
    for used in (
        "cycle", "flow", "headers", "parser", "pipeline", "transport", "loop", "client", "scope",
        "server_state", "_unset_keepalive_if_required",
    ):  # fmt: skip
        assert hasattr(theirs, used)
    cycle = inspect.getsource(RequestResponseCycle.__init__)
    for used in (
        "response_complete", "response_started", "keep_alive", "disconnected", "message_event",
        "waiting_for_100_continue",
    ):  # fmt: skip
        assert f"self.{used} = " in cycle
    of_a_transport = r"self\.transport\.(\w+)"
    assert set(re.findall(of_a_transport, inspect.getsource(RequestResponseCycle))) <= {
        "close", "is_closing", "write",
    }  # fmt: skip
    received = inspect.getsource(HttpToolsProtocol.data_received)
    assert set(re.findall(r"self\.(\w+)\(", received)) == {  # ours calls only the first
        "_unset_keepalive_if_required", "send_400_response", "_should_upgrade",
        "handle_websocket_upgrade", "_unsupported_upgrade_warning",
    }  # fmt: skip
    assert "lenient_data_after_close=True" in inspect.getsource(HttpToolsProtocol.__init__)
    assert httptools_impl.STATUS_LINE[431].startswith(b"HTTP/1.1 431 ")


def test_uvicorn_still_listens_as_ours_expects() -> None:
    started = inspect.getsource(uvicorn.Server.startup)
    # With no sockets of its own it starts the application, and listens on nothing.
    assert "await self.lifespan.startup()" in started
    assert "for sock in sockets:" in started
    assert "self.servers: list[" in started
    for used in (
        "config=config",
        "server_state=self.server_state",
        "app_state=self.lifespan.state",
    ):
        assert used in started
    ended = inspect.getsource(uvicorn.Server.shutdown)
    assert "for server in self.servers:" in ended
    assert "for sock in sockets or []:" in ended
    assert list(inspect.signature(Http.startup).parameters) == ["self", "sockets"]
