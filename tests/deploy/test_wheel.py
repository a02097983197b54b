"""The wheel: what is in it, and that its console script runs the program beside any other `app`."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from app import __version__
from app.version import version
from tests.life.started import Started
from tests.support.processes import stop

ROOT = Path(__file__).parents[2]
SCRIPT = "import sys; from serve_hathora_server import main; main()"
"""What the console script does."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment's packages, another `app` among them."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    (folder / "app").mkdir()
    (folder / "app" / "__init__.py").write_text("raise SystemExit('this is another app')")
    return folder


def run(site: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        env={**os.environ, "PYTHONPATH": str(site), "ENV_FILE": "", **environment},
        cwd=site.parent,
        capture_output=True,
        text=True,
    )


def test_the_wheel_has_one_package_with_the_whole_program_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"serve_hathora_server", f"serve_hathora-{__version__}.dist-info"}
    git = ["git", "-c", "safe.directory=*", "ls-files", "-c", "-o", "--exclude-standard", "app"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    program = {
        f"serve_hathora_server/{name}"
        for name in (*listed.stdout.split(), "serve_hathora.py", "__init__.py", "REVISION")
    }
    assert {name for name in names if name.startswith("serve_hathora_server/")} == program
    assert "serve_hathora_server/app/engine/sglang/cpu/sgl_kernel/__init__.py" in program
    assert "serve_hathora_server/app/settings/sglang_fields.txt" in program


def test_the_wheel_names_its_script_and_what_it_needs(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = f"serve_hathora-{__version__}.dist-info"
    scripts = ConfigParser()
    scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"serve-hathora": "serve_hathora_server:main"}
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "Requires-Dist: fastapi" in metadata
    assert "Requires-Dist: sglang==" in metadata
    assert "extra == 'engine'" in metadata


def test_the_script_runs_the_wheels_program_with_its_commit(site: Path) -> None:
    done = run(site, "version")
    assert done.stdout.startswith(f"{__version__} (commit "), done.stderr
    assert str(version().commit) in done.stdout
    assert run(site, "--help").stdout.startswith("usage: serve-hathora")
    wrong = run(site, "--prot", "1")
    assert (wrong.returncode, wrong.stderr) == (
        78, "serve_hathora: there is no flag --prot; did you mean --port?\n",
    )  # fmt: skip


def test_python_that_is_told_to_import_from_no_folder_imports_the_wheels_app(site: Path) -> None:
    done = run(site, "version", PYTHONSAFEPATH="1")
    assert done.stdout.startswith(f"{__version__} (commit "), done.stderr


def test_the_commit_is_not_that_of_a_checkout_around_the_source(tmp_path: Path) -> None:
    hook = runpy.run_path(str(ROOT / "deploy/package/hatch_build.py"))
    commit: Callable[[str], str | None] = hook["_commit"]
    inner = tmp_path / "inner"
    inner.mkdir()
    assert commit(str(inner)) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x.example"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    assert commit(str(inner)) is None
    assert len(str(commit(str(tmp_path)))) == 40


@pytest.fixture
def started(site: Path, tmp_path: Path) -> Iterator[Started]:
    program = ("-c", SCRIPT)
    server = Started(
        tmp_path, program=program, PYTHONPATH=str(site), TOKENIZER_WORKERS="2", STORE_URL="off"
    )
    yield server
    stop(server.process)


async def test_a_server_of_several_processes_runs_from_the_wheel(started: Started) -> None:
    async with await started.ready() as client:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    started.process.terminate()
    assert await started.exit_code() == 0
