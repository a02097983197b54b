"""Every test of the store runs on both databases."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.store.store import Store
from tests.support import postgres

Opening = Callable[..., Store]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if not postgres.installed():
        pytest.skip("PostgreSQL is not installed")
    with postgres.postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/responses.sqlite3"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def owner() -> str:
    """A test's own: the databases' servers are shared."""
    return uuid.uuid4().hex


@pytest_asyncio.fixture
async def open_store(url: str) -> AsyncIterator[Opening]:
    """Opens stores of the same database, as several servers do."""
    async with AsyncExitStack() as stack:

        def opened(**options: Any) -> Store:
            defaults: dict[str, Any] = {
                "most_responses": 1000,
                "most_bytes": 10**8,
                "most_response_bytes": 10**6,
                "ttl_s": 3600.0,
            }
            store = Store(url, **(defaults | options))
            stack.push_async_callback(store.close)
            return store

        yield opened
        # What is left would count against the next test's bounds.
        emptied = opened()
        await emptied._call("evict", lambda rows: rows.upkeep.remove_oldest(count=0, size=0))
