"""Every test of the store runs on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from app.store.store import Store
from tests.support import postgres

Opening = Callable[..., Store]


postgres_url = pytest.fixture(postgres.server, scope="session")
url = pytest.fixture(postgres.database, params=postgres.DATABASES)
owner = pytest.fixture(postgres.owner)


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
