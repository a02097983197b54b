"""A Compute API on loopback: groups, machines, operations, and the faults that a test asks for.

Source of paths and bodies: https://cloud.google.com/compute/docs/reference/rest/v1. It is reached
over HTTP only, so it serves the client library in the test's process and whole servers alike.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, islice
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

PROJECT, ZONE, GROUP = "proj", "us-west1-b", "llm-serve-us-west1-b"
Body = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A request that arrived.

    `name` is the API's method: aggregatedList, get, attachNetworkEndpoints,
    detachNetworkEndpoints, listNetworkEndpoints; or operation.
    """

    name: str
    method: str
    path: str
    query: dict[str, str]
    body: Body
    headers: dict[str, str]
    at: float
    """time.monotonic()"""


@dataclass(frozen=True)
class Fault:
    """An error instead of the right answer; with `effect` the request is still carried out."""

    status: int
    message: str
    reason: str
    effect: bool


@dataclass
class _Outcome:
    running_polls: int = 0
    """How many more polls are answered with RUNNING."""
    done: threading.Event | None = None
    """Polls are answered with RUNNING until it is set."""
    error: tuple[str, str, int] | None = None


@dataclass
class _Operation:
    outcome: _Outcome
    group: str
    endpoint: Body
    attach: bool
    finished: bool = False


@dataclass
class _Nic:
    ip: str
    public_ip: str | None


@dataclass
class FakeCompute:
    """`endpoints` and `types` are by the group's name. With `listening=False` connections are
    refused until `listen()`."""

    page_size: int = 500
    filters: bool = True
    """False: no filter matches anything, as if the API did not search inside lists."""
    types: dict[str, str] = field(default_factory=lambda: {GROUP: "GCE_VM_IP_PORT"})
    endpoints: dict[str, list[Body]] = field(default_factory=lambda: defaultdict(list))
    calls: list[Call] = field(default_factory=list)
    listening: bool = True

    def __post_init__(self) -> None:
        self._machines: list[tuple[str, str, list[_Nic]]] = []
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self._hanging: set[str] = set()
        self._outcomes: list[_Outcome] = []
        self._operations: dict[str, _Operation] = {}
        self._by_request: dict[str, str] = {}
        self._names = count(1)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self._server.compute = self
        self._server.server_bind()
        self._serving = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        if self.listening:
            self.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._serving.is_alive():
            self._server.shutdown()
            self._serving.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def names(self) -> list[str]:
        return [call.name for call in self.calls]

    def named(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]

    def key_base64(self, **changed: str | None) -> str:
        """A service account's key; None removes a field."""
        fields: dict[str, str | None] = {
            "type": "service_account", "project_id": PROJECT, "private_key_id": "1",
            "private_key": _pair()[0], "client_email": f"server@{PROJECT}.example",
            "token_uri": f"{self.url}/token", **changed,
        }  # fmt: skip
        kept = {name: value for name, value in fields.items() if value is not None}
        return base64.b64encode(json.dumps(kept).encode()).decode()

    def environ(self, **settings: str) -> dict[str, str]:
        """The settings of a server that registers here; "localhost" is its public name."""
        return {
            "HATHORA_HOSTNAME": "localhost", "HATHORA_DEFAULT_PORT": "8000",
            "HATHORA_REGION": "Seattle", "GCP_SERVICE_ACCOUNT_KEY_BASE64": self.key_base64(),
            "GCP_API_ENDPOINT": self.url, "GCP_TIMEOUT": "20", "LOG_FILE": "", **settings,
        }  # fmt: skip

    def add_machine(
        self, name: str = "vm-1", *nics: tuple[str, str | None], zone: str = ZONE
    ) -> None:
        """`nics`: the internal and the public address of each interface."""
        nics = nics or (("10.0.0.2", "127.0.0.1"),)
        self._machines.append((name, zone, [_Nic(*nic) for nic in nics]))

    def fail_next(
        self, name: str, status: int, message: str = "no", *, times: int = 1, reason: str = "x",
        effect: bool = False,
    ) -> None:  # fmt: skip
        self._faults[name] += [Fault(status, message, reason, effect)] * times

    def hang(self, name: str) -> None:
        """Calls of this name are not answered until this server ends."""
        self._hanging.add(name)

    def next_operation(
        self,
        *,
        running_polls: int = 0,
        done: threading.Event | None = None,
        error: tuple[str, str, int] | None = None,
    ) -> None:
        """The next operation runs for so many polls and until `done` is set, and then fails with
        `error` (code, message, HTTP status)."""
        self._outcomes.append(_Outcome(running_polls, done, error))

    def listen(self) -> None:
        if not self._serving.is_alive():
            self._server.server_activate()
            self._serving.start()

    def answer(self, call: Call) -> tuple[int, Body] | None:
        """Return status and body; None: the connection is dropped without an answer."""
        with self._lock:
            self.calls.append(call)
        if call.name in self._hanging:
            self._closing.wait()
            return None
        with self._lock:
            if (refusal := _refused(call)) is not None:
                return 401, _error(401, refusal)
            fault = self._faults[call.name].pop(0) if self._faults[call.name] else None
            if fault is None:
                return self._do(call)
            if fault.effect:
                _, begun = self._do(call)
                self._finish(self._operations[begun["name"]])
            return fault.status, _error(fault.status, fault.message, fault.reason)

    def _do(self, call: Call) -> tuple[int, Body]:
        match call.name:
            case "aggregatedList":
                return 200, self._aggregated(call.query)
            case "operation":
                return self._operation(call)
        group = re.findall(r"networkEndpointGroups/([^/]+)", call.path)
        if not group or group[0] not in self.types:
            return 404, _error(404, f"The resource '{call.path}' was not found", "notFound")
        match call.name:
            case "get":
                return 200, {"name": group[0], "networkEndpointType": self.types[group[0]]}
            case "listNetworkEndpoints":
                return 200, self._listed(group[0], call.query)
            case "attachNetworkEndpoints" | "detachNetworkEndpoints":
                return 200, self._begin(group[0], call)
        return 404, _error(404, "no such method")

    def _aggregated(self, query: dict[str, str]) -> Body:
        wanted = re.findall(r'natIP = "([^"]+)"', query.get("filter", ""))
        shown = [
            (name, zone, nics)
            for name, zone, nics in self._machines
            if "filter" not in query
            or (self.filters and any(nic.public_ip in wanted for nic in nics))
        ]
        page, rest = self._page(shown, query)
        items: Body = {"zones/empty": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}
        for name, zone, nics in page:
            interfaces = [
                {"networkIP": nic.ip, "accessConfigs": [{"natIP": nic.public_ip}]}
                if nic.public_ip
                else {"networkIP": nic.ip}
                for nic in nics
            ]
            scoped = items.setdefault(f"zones/{zone}", {"instances": []})
            scoped["instances"].append({"name": name, "networkInterfaces": interfaces})
        return {"items": items, **rest}

    def _listed(self, group: str, query: dict[str, str]) -> Body:
        page, rest = self._page(self.endpoints[group], query)
        return {"items": [{"networkEndpoint": endpoint} for endpoint in page], **rest}

    def _page(self, items: list[Any], query: dict[str, str]) -> tuple[list[Any], Body]:
        start = int(query.get("pageToken", "0"))
        page = list(islice(items, start, start + self.page_size))
        end = start + self.page_size
        return page, {"nextPageToken": str(end)} if end < len(items) else {}

    def _begin(self, group: str, call: Call) -> Body:
        request_id = call.query["requestId"]
        if request_id not in self._by_request:
            outcome = self._outcomes.pop(0) if self._outcomes else _Outcome()
            attach = call.name == "attachNetworkEndpoints"
            name = f"operation-{next(self._names)}"
            (endpoint,) = call.body["networkEndpoints"]
            self._operations[name] = _Operation(outcome, group, endpoint, attach)
            self._by_request[request_id] = name
        return {"name": self._by_request[request_id], "status": "RUNNING"}

    def _operation(self, call: Call) -> tuple[int, Body]:
        name = re.findall(r"operations/([^/]+)", call.path)[0]
        operation = self._operations.get(name)
        if operation is None:
            return 404, _error(404, f"The resource '{name}' was not found", "notFound")
        outcome = operation.outcome
        if outcome.running_polls > 0 or (outcome.done and not outcome.done.is_set()):
            outcome.running_polls -= 1
            return 200, {"name": name, "status": "RUNNING"}
        if outcome.error is not None:
            code, message, status = outcome.error
            errors = {"errors": [{"code": code, "message": message}]}
            return 200, {
                "name": name, "status": "DONE", "error": errors, "httpErrorStatusCode": status,
            }  # fmt: skip
        self._finish(operation)
        return 200, {"name": name, "status": "DONE"}

    def _finish(self, operation: _Operation) -> None:
        if operation.finished:
            return
        operation.finished = True
        members = self.endpoints[operation.group]
        if operation.attach and operation.endpoint not in members:
            members.append(operation.endpoint)
        if not operation.attach and operation.endpoint in members:
            members.remove(operation.endpoint)


def fake_compute() -> Iterator[FakeCompute]:
    """A fixture: the API with one machine, whose public address is "localhost"'s."""
    with FakeCompute() as running:
        running.add_machine()
        yield running


class NoPause(threading.Event):
    """A `stop` whose pauses take no time. `instead` is called in place of the first pause."""

    def __init__(self, instead: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.instead = instead

    def wait(self, timeout: float | None = None) -> bool:
        instead, self.instead = self.instead, None
        if instead:
            instead()
        return self.is_set()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    compute: FakeCompute


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        body = json.loads(raw) if raw.startswith(b"{") else {}
        call = Call(
            _name(path), self.command, path, dict(parse_qsl(query)), body,
            {name.lower(): value for name, value in self.headers.items()}, time.monotonic(),
        )  # fmt: skip
        answer = self.server.compute.answer(call)
        if answer is None:
            self.close_connection = True
            return
        status, document = answer
        payload = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_POST = do_CONNECT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Tests read `calls`."""


def _name(path: str) -> str:
    parts = urlsplit(path).path.strip("/").split("/")
    if "operations" in parts:
        return "operation"
    if parts[-2:] == ["aggregated", "instances"]:
        return "aggregatedList"
    if len(parts) > 1 and parts[-2] == "networkEndpointGroups":
        return "get"
    return parts[-1]


def _error(status: int, message: str, reason: str = "x") -> Body:
    detail = {"message": message, "domain": "global", "reason": reason}
    return {"error": {"code": status, "message": message, "errors": [detail]}}


def _refused(call: Call) -> str | None:
    """Why the bearer token is refused; None if the key signed it and its scope is right."""
    token = call.headers.get("authorization", "").removeprefix("Bearer ")
    try:
        claims = jwt.decode(token, certs=_pair()[1])
    except ValueError as error:
        return f"Request had invalid authentication credentials: {error}"
    scope = "https://www.googleapis.com/auth/compute"
    return None if claims.get("scope") == scope else "wrong scope"


@functools.cache
def _pair() -> tuple[str, str]:
    """The private and the public key; making them takes a tenth of a second."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
