"""The floors of the building: imports go down only, and what is foreign stays where it belongs."""

from __future__ import annotations

import ast
from functools import cache
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
        "sequences",
        "endpoint",
        "channel",
        "logs",
        "loop",
        "stats",
        "awake",
        "metrics",
        "metric_files",
        "mapped_files",
        "processes",
        "recent_errors",
        "signals",
        "spawned",
        "tracing",
        "trials",
        "unix_sockets",
        "version",
    },
    {"reading", "grammars", "store", "media", "files", "adapters"},
    {"engine"},
    {"generation"},
    {"dialects", "hathora"},
    {"life"},
    {"web", "runpod", "workers", "check"},
    {"cli", "command"},
]
FILES = sorted(path for path in APP.rglob("*.py") if "sgl_kernel" not in path.parts)


@cache
def imports(path: Path) -> list[str]:
    """Dotted names of everything that a file imports, functions' own imports included."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(imported):
                names += (name.name for name in imported)
            case ast.ImportFrom(module=str(module), names=imported):
                names += (f"{module}.{name.name}" for name in imported)
    return names


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
        assert not imports(path)
        return
    assert here is not None, "this file is on no floor; give it one"
    for imported in imports(path):
        there = floor(imported)
        assert there is None or there <= here, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize(
    ("foreign", "home"),
    [
        ("sglang", ("engine/sglang/",)),
        ("sgl_kernel", ("engine/sglang/",)),
        ("torch", ("engine/sglang/", "engine/demo.py")),
        ("transformers", ("engine/sglang/", "engine/demo.py")),
        ("fastapi", ("web/",)),
        ("starlette", ("web/",)),
        ("uvicorn", ("web/",)),
        ("google", ("hathora/",)),
        ("requests", ("hathora/",)),
        ("runpod", ("runpod/",)),
        ("aiohttp", ("runpod/",)),
        ("prometheus_client", ("metrics.py", "metric_files.py")),
        ("sqlalchemy", ("store/",)),
        ("obstore", ("files/bucket.py",)),
        ("opentelemetry", ("tracing/otlp.py",)),
        ("python_multipart", ("web/multipart.py",)),
        ("structlog", ("logs/",)),
        ("pydantic", ("settings/", "dialects/")),
    ],
)
def test_what_is_foreign_stays_in_its_place(foreign: str, home: tuple[str, ...]) -> None:
    for path in FILES:
        where = path.relative_to(APP).as_posix()
        if any(name.split(".")[0] == foreign for name in imports(path)):
            assert where.startswith(home), f"{where} imports {foreign}"


def graph() -> dict[str, set[str]]:
    """Module -> what it imports of the program, inside functions too; not for types alone."""
    names = {name_of(path): path for path in FILES}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        imported: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
                for each in node.names:
                    dotted = f"{node.module}.{each.name}"
                    imported.add(dotted if dotted in names else node.module)
        found[name] = (imported & names.keys()) - {name}
    return found


def test_no_module_imports_itself_through_others() -> None:
    imported = graph()
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for each in sorted(imported[name]):
                visit(each, (*way, name))
            done.add(name)

    for name in imported:
        visit(name, ())


def test_files_are_short_but_for_the_table_of_settings() -> None:
    long = {name_of(path) for path in FILES if len(path.read_text().splitlines()) > 400}
    assert long <= {"app.settings.catalogue"}


def test_functions_are_short() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 60, f"{name_of(path)}: {node.name} has {lines} lines"


@pytest.mark.parametrize(
    ("call", "home"),
    [
        ("add_signal_handler", "signals.py"),
        ("signal.signal(", "signals.py trials/worker.py"),
        ("pthread_sigmask", "signals.py"),
        ("open_unix_connection", "channel.py check/relay.py"),
        ("socket.socketpair", "workers/parent.py hathora/supervisor.py engine/sglang/early.py"),
        ("exit_code(lifecycle", "life/service.py"),
        ("gate.end_all", "gate.py web/server.py runpod/worker.py"),
        ("form_of(path: str)", "dialects/error_forms.py"),
    ],
)
def test_what_is_told_once_stays_in_its_place(call: str, home: str) -> None:
    for path in FILES:
        if call in path.read_text():
            assert path.relative_to(APP).as_posix() in home.split()


# The contract looks for the word in SGLang's source.
READS_ENVIRONMENT = ("settings/load.py", "engine/sglang/contract.py")
WRITES_ENVIRONMENT = (
    "engine/environment.py",
    "engine/sglang/importing.py",
    "engine/sglang/early.py",
    "engine/sglang/early_child.py",
    "engine/sglang/loopback.py",
)


def test_the_environment_is_read_by_the_settings_and_written_by_the_engine() -> None:
    for path in FILES:
        mentions = "os.environ" in path.read_text() or "getenv" in path.read_text()
        where = path.relative_to(APP).as_posix()
        assert not mentions or where in (*READS_ENVIRONMENT, *WRITES_ENVIRONMENT), where


def test_starting_imports_nothing_but_behind_the_guard() -> None:
    tree = ast.parse((APP.parent / "serve_hathora.py").read_text())
    docstring, guard = tree.body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(guard, ast.If)
