"""Every test of files runs in a folder and in a bucket."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.files.storage import folder_of
from tests.support import bucket, postgres


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    with bucket.s3() as address:
        yield address


@pytest.fixture(params=["folder", "bucket"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """FILE_STORAGE_PATH."""
    if request.param == "folder":
        return str(tmp_path / "files")
    for name, value in bucket.environment(request.getfixturevalue("endpoint")).items():
        monkeypatch.setenv(name, value)
    return f"s3://files/{uuid.uuid4().hex}"


@pytest.fixture
def contents(path: str, request: pytest.FixtureRequest) -> Callable[[], list[str]]:
    """Lists what there is of files, half ones included."""
    if (folder := folder_of(path)) is None:
        address = request.getfixturevalue("endpoint")
        prefix = path.removeprefix("s3://files/")
        return lambda: bucket.keys(address, prefix) + ["part"] * bucket.unfinished(address, prefix)
    return lambda: [
        str(each) for each in folder.rglob("*") if each.is_file() and "sqlite3" not in each.name
    ]


postgres_url = pytest.fixture(postgres.server, scope="session")
store_url = pytest.fixture(postgres.database, params=postgres.DATABASES)
owner = pytest.fixture(postgres.owner)
