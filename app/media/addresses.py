"""Which addresses a picture may be fetched from: none that reaches what only this machine reaches.

Python's `is_global` alone does not do: 3.11 lacks ranges (CVE-2024-4032), and it takes an IPv4
address that is written inside an IPv6 one for the range of the latter.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


def _networks(*ranges: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, ranges))


_LOCAL = _networks(
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",
    "192.0.0.192/32", "100.100.100.200/32", "168.63.129.16/32",
    "::/127", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::/32", "fd20:ce::254/128",
)  # fmt: skip
"""This machine, its links, its cloud's metadata servers, groups."""
_PRIVATE = _networks(
    "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "240.0.0.0/4",
    "64:ff9b:1::/48", "100::/64", "2001:db8::/32", "5f00::/16", "fc00::/7",
)  # fmt: skip
"""Networks of operators and clouds, and what is no host's address."""
_NAT64 = IPv6Network("64:ff9b::/96")


def _unwrapped(address: Address) -> Iterable[Address]:
    """The address, and the IPv4 ones that are written in it and that a gateway may dial."""
    yield address
    if isinstance(address, IPv6Address):
        if (mapped := address.ipv4_mapped) is not None:
            yield mapped
        if (by_6to4 := address.sixtofour) is not None:
            yield by_6to4
        if (teredo := address.teredo) is not None:
            yield from teredo
        if address in _NAT64 or int(address) >> 32 == 0:
            yield IPv4Address(int(address) & 0xFFFFFFFF)


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def is_dialled(address: str, *, private: bool) -> bool:
    """`private`: the operator has named the host, which may be on a private network."""
    try:
        whole = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    each = [*_unwrapped(whole)]
    if any(_within(one, _LOCAL) for one in each):
        return False
    if private and each == [whole]:
        return True
    plain = [one for one in each if isinstance(one, IPv4Address)] or each
    return not any(_within(one, _PRIVATE) for one in each) and all(one.is_global for one in plain)
