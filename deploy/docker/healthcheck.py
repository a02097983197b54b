"""The image's HEALTHCHECK: exit 0 if this container's server may get requests. Standard library.

Where it listens is read as the server reads it, as far as the environment sets it. PORT_HEALTH goes
first: it is plain, and needs no certificate even where clients of PORT do.
"""

import http.client
import json
import os
import socket
import ssl
import sys

TIMEOUT_S = 4.0


class OnUnixSocket(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self.path)


def main() -> int:
    where, connection = _connection()
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        text = answer.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer on {where}: {error}")
        return 1
    print(text if answer.status == 200 else f"{answer.status}: {text}")
    return 0 if answer.status == 200 else 1


def _connection() -> tuple[str, http.client.HTTPConnection]:
    if port := _setting("PORT_HEALTH"):
        return f"port {port}", http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    if path := _setting("UDS"):
        return path, OnUnixSocket(path)
    port = _setting("PORT", "HATHORA_DEFAULT_PORT") or "8000"
    if _setting("SSL_CERTFILE"):
        # This container asks itself: its certificate has the name that clients use.
        context = ssl._create_unverified_context()  # noqa: S323
        return f"port {port}", http.client.HTTPSConnection(
            "127.0.0.1", int(port), timeout=TIMEOUT_S, context=context
        )
    return f"port {port}", http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)


def _setting(*names: str) -> str:
    """The environment over DEPLOYMENT_CONFIG_JSON, as in the server; empty if it is not set."""
    try:
        config = json.loads(os.environ.get("DEPLOYMENT_CONFIG_JSON") or "{}")
    except ValueError:
        config = {}  # the server does not start with this
    below = {name.upper().replace("-", "_"): value for name, value in config.items()}
    for name in names:
        if value := os.environ.get(name) or below.get(name):
            return str(value)
    return ""


if __name__ == "__main__":
    sys.exit(main())
