"""The state of the network endpoint through which a load balancer reaches this server."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class NetworkState(StrEnum):
    DISABLED = "disabled"
    """Networking is not configured."""
    WAITING = "waiting"
    """Registration waits until the server has generated a token."""
    REGISTERING = "registering"
    REGISTERED = "registered"
    FAILED = "failed"
    """The registration failed; it is retried after a minute at most."""
    LEAVING = "leaving"
    LEFT = "left"


_ATTACHED = (NetworkState.REGISTERING, NetworkState.REGISTERED, NetworkState.LEAVING)


class Network(msgspec.Struct, frozen=True, omit_defaults=True):
    """The endpoint, as /health shows it."""

    state: NetworkState
    project: str | None = None
    group: str | None = None
    scope: str | None = None
    location: str | None = None
    """Zone of a zonal group, region of a regional one."""
    endpoint: str | None = None
    failures: int = 0
    """Failed registrations and removals since the start."""
    error: str | None = None

    @property
    def attached(self) -> bool:
        """Traffic may be arriving through the load balancer."""
        return self.state in _ATTACHED


NO_NETWORK = Network(NetworkState.DISABLED)
