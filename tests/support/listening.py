"""Where processes listen."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from contextlib import suppress

import psutil


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """Address and port of every socket on which one of them takes connections."""
    sockets = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has ended since it was listed
            sockets += process.net_connections("tcp")
    return {tuple(each.laddr) for each in sockets if each.status == psutil.CONN_LISTEN}


def beyond_loopback(addresses: Iterable[tuple[str, int]]) -> set[int]:
    """The ports that other machines reach."""
    return {port for ip, port in addresses if not _is_loopback(ip)}


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
