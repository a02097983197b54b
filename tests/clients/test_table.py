"""The table in docs/clients.md has every client that is installed, with the version that is run."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.clients.environments import HERE, ROOT, pins

_PARTS = {"node", "zod", "@langchain/core"}
"""What a client needs beside it."""


def clients() -> Iterator[tuple[str, str]]:
    """Name and version."""
    for file in sorted(HERE.glob("requirements-*.in")):
        pinned = pins(file.stem.removeprefix("requirements-"))
        for name in re.findall(r"^[\w-]+", file.read_text(), re.MULTILINE):
            yield name.replace("_", "-"), pinned[name.replace("_", "-")]
    yield from ((name, version) for name, version in pins("node").items() if name not in _PARTS)


@pytest.mark.parametrize(("name", "version"), list(clients()))
def test_the_table_has_the_version_of_each_client(name: str, version: str) -> None:
    lines = (ROOT / "docs/clients.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|") and f"`{name}`" in line]
    stands = re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w.]*\w)")
    assert any(stands.search(row) for row in rows), rows
