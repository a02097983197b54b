"""The state of the network endpoint through which a load balancer reaches this server."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class NetworkState(StrEnum):
    DISABLED = "disabled"
    """Networking is not configured."""
    WAITING = "waiting"
    """For the server to have generated a token."""
    REGISTERING = "registering"
    REGISTERED = "registered"
    FAILED = "failed"
    """The registration failed; it is tried again, after a minute at most."""
    LEAVING = "leaving"
    LEFT = "left"


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
    """Registrations and removals that failed, since the start."""
    error: str | None = None

    @property
    def attached(self) -> bool:
        """Traffic may be arriving through the load balancer."""
        return self.state in (
            NetworkState.REGISTERING, NetworkState.REGISTERED, NetworkState.LEAVING,
        )  # fmt: skip


NO_NETWORK = Network(NetworkState.DISABLED)
