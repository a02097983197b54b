"""Where processes listen."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import psutil


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """Address and port of every socket on which one of them takes connections."""
    sockets = [each for process in processes for each in process.net_connections("tcp")]
    return {tuple(each.laddr) for each in sockets if each.status == psutil.CONN_LISTEN}


def beyond_loopback(addresses: Iterable[tuple[str, int]]) -> set[int]:
    """The ports that other machines reach."""
    return {port for ip, port in addresses if not _is_loopback(ip)}


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
