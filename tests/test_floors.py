"""The floors of the building: imports go down only, and what is foreign stays where it belongs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[1] / "app"
FLOORS = [
    {
        "types",
        "events",
        "errors",
        "settings",
        "lifecycle",
        "gate",
        "endpoint",
        "channel",
        "logs",
        "stats",
        "metrics",
        "processes",
        "signals",
        "version",
    },
    {"reading"},
    {"engine"},
    {"generation"},
    {"dialects", "hathora"},
    {"life"},
    {"web", "runpod", "workers", "check"},
    {"cli"},
]
FILES = sorted(path for path in APP.rglob("*.py") if "sgl_kernel" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, functions' own imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{name.name}" for name in names)


def floor(dotted: str) -> int | None:
    """The floor of `app.generation.model` is that of `generation`; else None."""
    parts = dotted.split(".")
    if parts[0] != "app" or len(parts) == 1:
        return None
    return next((no for no, rooms in enumerate(FLOORS) if parts[1] in rooms), None)


def name_of(path: Path) -> str:
    return ".".join(("app", *path.relative_to(APP).with_suffix("").parts))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    here = floor(name_of(path))
    if path.name == "__init__.py":
        assert not list(imports(path))
        return
    assert here is not None, "this file is on no floor; give it one"
    for imported in imports(path):
        there = floor(imported)
        assert there is None or there <= here, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize(
    ("foreign", "home"),
    [
        ("sglang", ("engine/sglang/",)),
        ("sgl_kernel", ("engine/environment.py", "engine/sglang/")),
        ("torch", ("engine/sglang/", "engine/demo.py")),
        ("transformers", ("engine/sglang/", "engine/demo.py")),
        ("fastapi", ("web/",)),
        ("starlette", ("web/",)),
        ("uvicorn", ("web/",)),
        ("google", ("hathora/",)),
        ("requests", ("hathora/",)),
        ("runpod", ("runpod/",)),
        ("aiohttp", ("runpod/",)),
        ("prometheus_client", ("metrics.py",)),
        ("structlog", ("logs/",)),
        ("pydantic", ("settings/", "dialects/")),
    ],
)
def test_what_is_foreign_stays_in_its_place(foreign: str, home: tuple[str, ...]) -> None:
    for path in FILES:
        where = path.relative_to(APP).as_posix()
        if any(name.split(".")[0] == foreign for name in imports(path)):
            assert where.startswith(home), f"{where} imports {foreign}"


def test_the_environment_is_read_in_one_place_and_written_in_another() -> None:
    for path in FILES:
        mentions = "os.environ" in path.read_text() or "getenv" in path.read_text()
        where = path.relative_to(APP).as_posix()
        assert not mentions or where in ("settings/load.py", "engine/environment.py"), where


def test_starting_imports_nothing_but_behind_the_guard() -> None:
    tree = ast.parse((APP.parent / "serve_hathora.py").read_text())
    docstring, guard = tree.body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(guard, ast.If)
