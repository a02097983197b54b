"""The calls of Google's Compute API that a registration needs: typed, with a deadline, retried.

Source: https://cloud.google.com/compute/docs/reference/rest/v1 (instances, networkEndpointGroups,
zoneOperations, and the regional and global forms of the last two) and google-cloud-compute 1.56.

Importing that library takes seconds and 100 MB, so only the constructor of `Compute` does it. Its
methods that return an ExtendedOperation are not used: they poll a host that cannot be configured.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from app.hathora.deadline import Deadline
from app.hathora.failures import CallFailed

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError
    from google.oauth2.service_account import Credentials

Scope: TypeAlias = Literal["zonal", "regional", "global"]

_FIRST_POLL_S, _LONGEST_POLL_S = 0.2, 2.0
_TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}
# The Compute API answers 403 to some calls over a rate limit, 400 while a resource is being made.
_TRANSIENT_REASONS = {"rateLimitExceeded", "userRateLimitExceeded", "resourceNotReady"}


class Machine(msgspec.Struct, frozen=True):
    """A virtual machine, identified by the network interface that has the public address."""

    name: str
    zone: str
    ip: str
    """The interface's internal address in its network."""


class Group(msgspec.Struct, frozen=True):
    """A network endpoint group. `location` is its zone or region; None for a global group."""

    name: str
    location: str | None
    type: str


class Endpoint(msgspec.Struct, frozen=True):
    """A member of a group; the group's type decides which fields are set."""

    port: int
    instance: str | None = None
    ip: str | None = None
    fqdn: str | None = None

    def __str__(self) -> str:
        return f"{self.instance or self.fqdn or self.ip}:{self.port}"


class Operation(msgspec.Struct, frozen=True):
    """A change that the API has started."""

    name: str
    location: str | None


class Compute:
    """The groups of one project and one scope. Blocking; every call may raise CallFailed."""

    def __init__(
        self, credentials: Credentials, *, project: str, scope: Scope, api_endpoint: str | None
    ) -> None:
        from google.api_core.client_options import ClientOptions
        from google.cloud import compute_v1 as api

        options = ClientOptions(
            api_endpoint=api_endpoint.rstrip("/") if api_endpoint else None,
            universe_domain=credentials.universe_domain,
        )

        def client(make: Callable[..., Any]) -> Any:
            return make(credentials=credentials, client_options=options, transport="rest")

        self._project = project
        self._instances = client(api.InstancesClient)
        match scope:
            case "zonal":
                self._location_field, self._body_prefix = "zone", "network_endpoint_groups"
                self._groups = client(api.NetworkEndpointGroupsClient)
                self._operations = client(api.ZoneOperationsClient)
            case "regional":
                self._location_field, self._body_prefix = "region", "region_network_endpoint_groups"
                self._groups = client(api.RegionNetworkEndpointGroupsClient)
                self._operations = client(api.RegionOperationsClient)
            case "global":
                self._location_field, self._body_prefix = "", "global_network_endpoint_groups"
                self._groups = client(api.GlobalNetworkEndpointGroupsClient)
                self._operations = client(api.GlobalOperationsClient)

    def find_machines(self, addresses: Collection[str], deadline: Deadline) -> list[Machine]:
        """Return the project's machines that have one of these public addresses."""
        terms = [f'networkInterfaces.accessConfigs.natIP = "{ip}"' for ip in sorted(addresses)]
        expression = terms[0] if len(terms) == 1 else " OR ".join(f"({term})" for term in terms)
        try:
            machines = self._list_machines(addresses, deadline, filter=expression)
        except CallFailed as error:
            if error.status != 400:
                raise
            machines = []
        # The filter only saves pages. The API does not promise that it searches inside lists, so
        # an empty result is checked without it.
        return machines or self._list_machines(addresses, deadline)

    def get_group(self, name: str, location: str | None, deadline: Deadline) -> Group:
        request = self._group_request(name, location)
        group = self._call("get the group", deadline, self._groups.get, request)
        return Group(name, location, group.network_endpoint_type)

    def list_endpoints(self, group: Group, deadline: Deadline) -> list[Endpoint]:
        request = self._group_request(group.name, group.location)
        if self._location_field == "zone":
            body = f"{self._body_prefix}_list_endpoints_request_resource"
            request[body] = {"health_status": "SKIP"}
        method = self._groups.list_network_endpoints
        pages = self._pages("list the group's endpoints", deadline, method, request)
        return [_endpoint(item.network_endpoint) for page in pages for item in page.items]

    def attach(self, group: Group, endpoint: Endpoint, deadline: Deadline) -> Operation:
        return self._change("attach", group, endpoint, deadline)

    def detach(self, group: Group, endpoint: Endpoint, deadline: Deadline) -> Operation:
        return self._change("detach", group, endpoint, deadline)

    def wait(self, operation: Operation, deadline: Deadline) -> None:
        """Return once the operation is done. Raises CallFailed also if it ends with an error."""
        # `get`, not the API's `wait`: that blocks for up to two minutes, even once `stop` is set.
        request = {"operation": operation.name, **self._location_request(operation.location)}
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
            errors = "; ".join(f"{error.code}: {error.message}" for error in state.error.errors)
            text = errors or state.http_error_message or "failed"
            transient = status in _TRANSIENT_STATUSES
            raise CallFailed(f"operation: {text}", status=status, transient=transient)

    def _change(self, verb: str, group: Group, endpoint: Endpoint, deadline: Deadline) -> Operation:
        fields = {
            "instance": endpoint.instance,
            "ip_address": endpoint.ip,
            "fqdn": endpoint.fqdn,
            "port": endpoint.port,
        }
        member = {name: value for name, value in fields.items() if value is not None}
        body = f"{self._body_prefix}_{verb}_endpoints_request_resource"
        request = {
            **self._group_request(group.name, group.location),
            body: {"network_endpoints": [member]},
            # One id for all attempts: where only the answer was lost, the API does not apply the
            # change twice.
            "request_id": str(uuid.uuid4()),
        }
        method = getattr(self._groups, f"{verb}_network_endpoints_unary")
        operation = self._call(verb, deadline, method, request)
        return Operation(operation.name, group.location)

    def _list_machines(
        self, addresses: Collection[str], deadline: Deadline, **request: str
    ) -> list[Machine]:
        machines, unreachable = [], []
        listing = {"project": self._project, "max_results": 500, **request}
        method = self._instances.aggregated_list
        for page in self._pages("list the machines", deadline, method, listing):
            for location, content in page.items.items():
                zone = location.removeprefix("zones/")
                if content.warning.code == "UNREACHABLE":
                    unreachable.append(zone)
                machines += [
                    Machine(machine.name, zone, interface.network_i_p)
                    for machine in content.instances
                    for interface in machine.network_interfaces
                    if any(access.nat_i_p in addresses for access in interface.access_configs)
                ]
        if not machines and unreachable:
            raise CallFailed(f"zones that do not answer: {', '.join(unreachable)}")
        return machines

    def _location_request(self, location: str | None) -> dict[str, Any]:
        place = {self._location_field: location} if self._location_field else {}
        return {"project": self._project, **place}

    def _group_request(self, name: str, location: str | None) -> dict[str, Any]:
        return {"network_endpoint_group": name, **self._location_request(location)}

    def _pages(
        self,
        action: str,
        deadline: Deadline,
        method: Callable[..., Any],
        request: dict[str, Any],
    ) -> Iterator[Any]:
        while True:
            # Page by page: the library's pager would use the first page's timeout for all of them.
            page = next(self._call(action, deadline, method, request).pages)
            yield page
            if not page.next_page_token:
                return
            request = {**request, "page_token": page.next_page_token}

    def _call(
        self,
        action: str,
        deadline: Deadline,
        method: Callable[..., Any],
        request: dict[str, Any],
    ) -> Any:
        from google.api_core.exceptions import GoogleAPICallError
        from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
        from requests import RequestException

        def attempt() -> Any:
            timeout_s = deadline.call_timeout_s
            try:
                return method(request=request, retry=None, timeout=timeout_s)
            except GoogleAPICallError as error:
                raise _call_failed(error) from error
            except RequestException as error:
                raise CallFailed(_connection_failure(error, timeout_s), transient=True) from error
            except ParseError as error:
                raise CallFailed("this is no answer of the Compute API") from error

        return deadline.retry(action, attempt)


def _endpoint(listed: Any) -> Endpoint:
    return Endpoint(
        listed.port,
        instance=listed.instance.rpartition("/")[2] or None,  # a name, or its URL
        ip=listed.ip_address or None,
        fqdn=listed.fqdn.lower().rstrip(".") or None,
    )


def _call_failed(error: GoogleAPICallError) -> CallFailed:
    status = int(error.code) if error.code is not None else None
    details = [detail for detail in error.errors if isinstance(detail, dict)]
    text = "; ".join(str(detail["message"]) for detail in details if "message" in detail)
    transient_reason = any(detail.get("reason") in _TRANSIENT_REASONS for detail in details)
    return CallFailed(
        f"{status} {text or error.message}",
        status=status,
        transient=status in _TRANSIENT_STATUSES or transient_reason,
    )


def _connection_failure(error: Exception, timeout_s: float) -> str:
    from requests import Timeout

    if isinstance(error, Timeout):
        return f"no answer within {timeout_s:.3g} s"
    # The outer exceptions carry addresses of objects and the whole URL.
    root: BaseException = error
    while cause := root.__cause__ or root.__context__:
        root = cause
    return f"no connection: {getattr(root, 'strerror', None) or root}"
