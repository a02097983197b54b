"""Hugging Face's hub on loopback, with one commit of a few files."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_PIECE = 2**18
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(
    files: Mapping[str, str | bytes],
    *,
    token: str | None = None,
    port: int = 0,
    bytes_per_s: float | None = None,
    refuses: tuple[int, str] | None = None,
    silent: threading.Event | None = None,
) -> Iterator[str]:
    """The few of Hugging Face's routes that a download takes. Yields its address. `bytes_per_s`: of
    all its answers together. `refuses`: every request, with this status and code. `silent`: it
    answers once this is set."""
    line = threading.Lock()
    contents = {
        name: content.encode() if isinstance(content, str) else content
        for name, content in files.items()
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if silent is not None:
                silent.wait()
            if refuses is not None:
                self._send(refuses[0], b"{}", {"X-Error-Code": refuses[1]})
            elif token and self.headers.get("authorization") != f"Bearer {token}":
                self._send(401, b"{}")
            elif "/api/models/" in path and "/tree/" in path:
                self._json([{"type": "file", "path": name, "size": len(each), "oid": _sha(each)}
                            for name, each in contents.items()])  # fmt: skip
            elif "/api/models/" in path:
                repo = path.split("/api/models/")[1].split("/revision/")[0]
                self._json({"id": repo, "sha": COMMIT,
                            "siblings": [{"rfilename": name, "size": len(each)}
                                         for name, each in contents.items()]})  # fmt: skip
            elif (name := re.sub(f".*/resolve/({COMMIT}|main)/", "", path)) in contents:
                self._send(200, contents[name], {"ETag": f'"{_sha(contents[name])}"'})
            else:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

        do_HEAD = do_GET  # noqa: N815

        def _json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode())

        def _send(self, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"X-Repo-Commit": COMMIT, **(more or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                for at in range(0, len(body), _PIECE):
                    self.wfile.write(piece := body[at : at + _PIECE])
                    if bytes_per_s is not None:
                        with line:  # one wire for all
                            time.sleep(len(piece) / bytes_per_s)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:  # else the thread outlives a test that fails, and the interpreter waits for it
            server.shutdown()
            thread.join()


def _sha(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
