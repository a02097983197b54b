"""torch.distributed on one machine: its sockets listen on loopback only.

The scheduler's processes meet at a TCPStore, even if there is only one of them. SGLang tells it
`tcp://127.0.0.1:port`, but torch (2.14.1) takes that for the address to connect to and listens on
every interface, for everybody, without a key (pytorch#173909). A socket that is bound already
(`master_listen_fd`) is the only way to say otherwise. Gloo and NCCL listen on the interface that
the machine's name or the routes point to, unless a variable names one.

Over several machines all three must be reached from outside: docs/scaling.md.
"""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any

_LOOPBACK = "lo"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def keep_to_loopback() -> None:
    """Before torch.distributed is initialised in this process."""
    # By its name: `torch.distributed.rendezvous` is the function in it.
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    if any(name == _LOOPBACK for _, name in socket.if_nameindex()):
        for variable in _INTERFACES:
            if not os.environ.get(variable):
                os.environ[variable] = _LOOPBACK
    rendezvous.TCPStore = _store  # type: ignore[attr-defined]


def _store(host_name: str, port: int, *, is_master: bool = False, **options: Any) -> Any:
    """torch's TCPStore; the one that listens does so at the address that the others are told."""
    from torch.distributed import TCPStore

    if is_master:
        options["master_listen_fd"] = _bound(host_name, port)
    return TCPStore(host_name=host_name, port=port, is_master=is_master, **options)


def _bound(host: str, port: int) -> int:
    """The descriptor of a socket that is bound there; it is the store's from now on."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        return bound.detach()
