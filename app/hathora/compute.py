"""The calls of Google's Compute API that a registration needs: typed, bounded in time, retried.

Source: https://cloud.google.com/compute/docs/reference/rest/v1 (instances, networkEndpointGroups,
zoneOperations, and the regional and global forms of the last two) and google-cloud-compute 1.56.

That library takes seconds and 100 MB to import: the constructor of `Compute` does it. Its methods
with an ExtendedOperation are not used: they poll a host that cannot be set.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from app.hathora.calls import CallFailed, Deadline

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError
    from google.oauth2.service_account import Credentials

Scope: TypeAlias = Literal["zonal", "regional", "global"]

_FIRST_POLL_S, _LONGEST_POLL_S = 0.2, 2.0
_TRANSIENT = {408, 429, 500, 502, 503, 504}
# The Compute API says some of "not so fast" and "not yet" with 403 and 400.
_TRANSIENT_REASONS = {"rateLimitExceeded", "userRateLimitExceeded", "resourceNotReady"}


class Machine(msgspec.Struct, frozen=True):
    """A virtual machine, by the network interface that has the public address."""

    name: str
    zone: str
    ip: str
    """The interface's own address in its network."""


class Group(msgspec.Struct, frozen=True):
    """A network endpoint group. `location` is its zone or region, None for a global one."""

    name: str
    location: str | None
    type: str


class Endpoint(msgspec.Struct, frozen=True):
    """A member of a group; which fields it has is a matter of the group's type."""

    port: int
    instance: str | None = None
    ip: str | None = None
    fqdn: str | None = None

    def __str__(self) -> str:
        return f"{self.instance or self.fqdn or self.ip}:{self.port}"


class Operation(msgspec.Struct, frozen=True):
    """A change that the API has begun."""

    name: str
    location: str | None


class Compute:
    """One project's groups of one scope. Blocking; every call may raise CallFailed."""

    def __init__(
        self, credentials: Credentials, *, project: str, scope: Scope, api_endpoint: str | None
    ) -> None:
        from google.api_core.client_options import ClientOptions
        from google.cloud import compute_v1 as api

        options = ClientOptions(
            api_endpoint=api_endpoint.rstrip("/") if api_endpoint else None,
            universe_domain=credentials.universe_domain,
        )

        def client(of: Callable[..., Any]) -> Any:
            return of(credentials=credentials, client_options=options, transport="rest")

        self._project = project
        self._instances = client(api.InstancesClient)
        match scope:
            case "zonal":
                self._place, self._body = "zone", "network_endpoint_groups"
                self._groups = client(api.NetworkEndpointGroupsClient)
                self._operations = client(api.ZoneOperationsClient)
            case "regional":
                self._place, self._body = "region", "region_network_endpoint_groups"
                self._groups = client(api.RegionNetworkEndpointGroupsClient)
                self._operations = client(api.RegionOperationsClient)
            case "global":
                self._place, self._body = "", "global_network_endpoint_groups"
                self._groups = client(api.GlobalNetworkEndpointGroupsClient)
                self._operations = client(api.GlobalOperationsClient)

    def find_machines(self, addresses: Collection[str], deadline: Deadline) -> list[Machine]:
        """The project's machines that have one of these public addresses."""
        terms = [f'networkInterfaces.accessConfigs.natIP = "{ip}"' for ip in sorted(addresses)]
        wanted = terms[0] if len(terms) == 1 else " OR ".join(f"({term})" for term in terms)
        try:
            found = self._machines(addresses, deadline, filter=wanted)
        except CallFailed as error:
            if error.status != 400:
                raise
            found = []
        # The filter only saves pages: nothing promises that it looks into lists.
        return found or self._machines(addresses, deadline)

    def get_group(self, name: str, location: str | None, deadline: Deadline) -> Group:
        request = self._within(name, location)
        found = self._call("get the group", deadline, self._groups.get, request)
        return Group(name, location, found.network_endpoint_type)

    def list_endpoints(self, group: Group, deadline: Deadline) -> list[Endpoint]:
        request = self._within(group.name, group.location)
        if self._place == "zone":
            body = f"{self._body}_list_endpoints_request_resource"
            request[body] = {"health_status": "SKIP"}
        method = self._groups.list_network_endpoints
        pages = self._pages("list the group's endpoints", deadline, method, request)
        return [_endpoint(item.network_endpoint) for page in pages for item in page.items]

    def attach(self, group: Group, endpoint: Endpoint, deadline: Deadline) -> Operation:
        return self._change("attach", group, endpoint, deadline)

    def detach(self, group: Group, endpoint: Endpoint, deadline: Deadline) -> Operation:
        return self._change("detach", group, endpoint, deadline)

    def wait(self, operation: Operation, deadline: Deadline) -> None:
        """Return once it is done. Raises CallFailed, too, if it ends with an error."""
        # `get`, not `wait`: that one holds the call for up to two minutes, deaf to `stop`.
        request = {"operation": operation.name, **self._located(operation.location)}
        pause_s = _FIRST_POLL_S
        while True:
            state = self._call("get the operation", deadline, self._operations.get, request)
            if state.status.name == "DONE":
                break
            deadline.pause(pause_s)
            deadline.check()
            pause_s = min(pause_s * 1.5, _LONGEST_POLL_S)
        status = state.http_error_status_code or None
        if state.error.errors or status:
            said = "; ".join(f"{error.code}: {error.message}" for error in state.error.errors)
            text = said or state.http_error_message or "failed"
            raise CallFailed(f"operation: {text}", status=status, transient=status in _TRANSIENT)

    def _change(self, verb: str, group: Group, endpoint: Endpoint, deadline: Deadline) -> Operation:
        fields = {
            "instance": endpoint.instance, "ip_address": endpoint.ip, "fqdn": endpoint.fqdn,
            "port": endpoint.port,
        }  # fmt: skip
        given = {name: value for name, value in fields.items() if value is not None}
        request = {
            **self._within(group.name, group.location),
            f"{self._body}_{verb}_endpoints_request_resource": {"network_endpoints": [given]},
            # One for all attempts: a request that arrived, its answer lost, is not done twice.
            "request_id": str(uuid.uuid4()),
        }
        method = getattr(self._groups, f"{verb}_network_endpoints_unary")
        begun = self._call(verb, deadline, method, request)
        return Operation(begun.name, group.location)

    def _machines(
        self, addresses: Collection[str], deadline: Deadline, **request: str
    ) -> list[Machine]:
        found, unreachable = [], []
        listing = {"project": self._project, "max_results": 500, **request}
        method = self._instances.aggregated_list
        for page in self._pages("list the machines", deadline, method, listing):
            for where, scoped in page.items.items():
                zone = where.removeprefix("zones/")
                if scoped.warning.code == "UNREACHABLE":
                    unreachable.append(zone)
                found += [
                    Machine(machine.name, zone, interface.network_i_p)
                    for machine in scoped.instances
                    for interface in machine.network_interfaces
                    if any(access.nat_i_p in addresses for access in interface.access_configs)
                ]
        if not found and unreachable:
            raise CallFailed(f"zones that do not answer: {', '.join(unreachable)}")
        return found

    def _located(self, location: str | None) -> dict[str, Any]:
        where = {self._place: location} if self._place else {}
        return {"project": self._project, **where}

    def _within(self, name: str, location: str | None) -> dict[str, Any]:
        return {"network_endpoint_group": name, **self._located(location)}

    def _pages(
        self, what: str, deadline: Deadline, method: Callable[..., Any], request: dict[str, Any]
    ) -> Iterator[Any]:
        while True:
            # Page by page: the library's pager would ask for all with the first one's timeout.
            page = next(self._call(what, deadline, method, request).pages)
            yield page
            if not page.next_page_token:
                return
            request = {**request, "page_token": page.next_page_token}

    def _call(
        self, what: str, deadline: Deadline, method: Callable[..., Any], request: dict[str, Any]
    ) -> Any:
        from google.api_core.exceptions import GoogleAPICallError
        from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
        from requests import RequestException

        def attempt() -> Any:
            timeout_s = deadline.call_timeout_s
            try:
                return method(request=request, retry=None, timeout=timeout_s)
            except GoogleAPICallError as error:
                raise _refused(error) from error
            except RequestException as error:
                raise CallFailed(_unreached(error, timeout_s), transient=True) from error
            except ParseError as error:
                raise CallFailed("this is no answer of the Compute API") from error

        return deadline.retry(what, attempt)


def _endpoint(listed: Any) -> Endpoint:
    return Endpoint(
        listed.port,
        instance=listed.instance.rpartition("/")[2] or None,  # a name, or its URL
        ip=listed.ip_address or None,
        fqdn=listed.fqdn.lower().rstrip(".") or None,
    )


def _refused(error: GoogleAPICallError) -> CallFailed:
    status = int(error.code) if error.code is not None else None
    details = [detail for detail in error.errors if isinstance(detail, dict)]
    text = "; ".join(str(detail["message"]) for detail in details if "message" in detail)
    hurried = any(detail.get("reason") in _TRANSIENT_REASONS for detail in details)
    return CallFailed(
        f"{status} {text or error.message}",
        status=status,
        transient=status in _TRANSIENT or hurried,
    )


def _unreached(error: Exception, timeout_s: float) -> str:
    from requests import Timeout

    if isinstance(error, Timeout):
        return f"no answer within {timeout_s:.3g} s"
    # The outer ones carry addresses of objects and the whole URL.
    root: BaseException = error
    while cause := root.__cause__ or root.__context__:
        root = cause
    return f"no connection: {getattr(root, 'strerror', None) or root}"
