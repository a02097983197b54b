"""Addresses that only this machine, its cloud or its operator's network reach are never dialled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.media.addresses import is_dialled

PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "2002:0101:0101::1"]
PRIVATE = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "fd12::1"]
LOCAL = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1",
    "255.255.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192", "::1", "::", "fe80::1",
    "fe80::1%eth0", "fec0::1", "ff02::1", "fd00:ec2::254", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:0001::1", "2002:a9fe:a9fe::", "2001:0:7f00:1::",
]  # fmt: skip
NO_HOST = [
    "240.0.0.1", "192.0.2.1", "203.0.113.9", "2001:db8::1", "100::1", "::ffff:10.0.0.1",
    "64:ff9b::a00:1", "2002:0a00:0001::1", "x", "", "127.1", "2130706433",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_ones_are(address: str) -> None:
    assert is_dialled(address, private=False)
    assert is_dialled(address, private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_ones_are_if_the_operator_has_named_the_host(address: str) -> None:
    assert not is_dialled(address, private=False)
    assert is_dialled(address, private=True)


@pytest.mark.parametrize("address", LOCAL)
def test_local_ones_never_are(address: str) -> None:
    assert not is_dialled(address, private=False)
    assert not is_dialled(address, private=True)


@pytest.mark.parametrize("address", NO_HOST)
def test_what_is_no_hosts_address_is_not(address: str) -> None:
    assert not is_dialled(address, private=False)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_as_itself(address: object) -> None:
    alone = is_dialled(str(address), private=False)
    if not alone:
        for wrapped in (f"::ffff:{address}", f"64:ff9b::{address}", f"::{address}"):
            assert not is_dialled(wrapped, private=False)
