"""What is installed into SGLang's image: what it lacks, at the versions that are tested."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.docker.check_image import NEEDED
from deploy.docker.lock import declared
from tests.deploy.dockerfile import ROOT, stages

FILES = {
    "requirements/image.txt": "requirements.txt",
    "requirements/image-runpod.txt": "requirements/runpod.txt",
    "requirements/image-demo.txt": "requirements/demo.txt",
}


def pins(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def tree(name: str) -> set[str]:
    """A distribution and everything that it requires, by what is installed here."""
    names: set[str] = set()
    waiting: list[tuple[str, str]] = [(name, "")]
    while waiting:
        name, extra = waiting.pop()
        if f"{name}[{extra}]" in names:
            continue
        names |= {name, f"{name}[{extra}]"}
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        for wanted in map(Requirement, lines):
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                inner = canonicalize_name(wanted.name)
                waiting += [(inner, each) for each in ("", *wanted.extras)]
    return names


@pytest.mark.parametrize(("ours", "tested"), FILES.items())
def test_the_image_gets_the_versions_that_are_tested(ours: str, tested: str) -> None:
    assert set(pins(ours)) <= set(pins(tested)), "run deploy/docker/lock.py"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.full
def test_nothing_of_sglangs_own_tree_is_replaced(name: str) -> None:
    assert not {line.partition("==")[0] for line in pins(name)} & tree("sglang")


@pytest.mark.full
def test_together_with_the_image_the_program_has_all_it_needs() -> None:
    wanted = {line.partition("==")[0] for line in pins("requirements.txt")} - tree("sglang")
    pinned = {line.partition("==")[0] for line in pins("requirements/image.txt")}
    assert wanted == pinned, "run deploy/docker/lock.py"


def test_the_check_at_build_time_names_what_the_program_requires() -> None:
    direct = [re.match(r"[\w-]+", line) for line in declared()]
    assert {match[0] for match in direct if match} == set(NEEDED)


def check_image(pins: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "deploy/docker/check_image.py"
    return subprocess.run([sys.executable, script, pins], capture_output=True, text=True)


@pytest.mark.full
def test_the_check_at_build_time_accepts_what_is_pinned() -> None:
    done = check_image(ROOT / "requirements.txt")
    assert done.returncode == 0, done.stderr


@pytest.mark.full
def test_the_check_at_build_time_refuses_another_sglang(tmp_path: Path) -> None:
    (tmp_path / "pins").write_text("sglang==9.9.9\n")
    done = check_image(tmp_path / "pins")
    assert done.returncode == 1
    assert "lacks sglang==9.9.9 (the base image has " in done.stderr


@pytest.mark.parametrize(("stage", "name"), [("base", 0), ("runpod", 1)])
@pytest.mark.full
def test_the_install_command_finds_wheels_for_the_images_python(
    tmp_path: Path, stage: str, name: int
) -> None:
    """The command of the Dockerfile, into a folder and for another Python than this one."""
    path = list(FILES)[name]
    step = next(text for text in stages()[stage].all("RUN") if path in text)
    command = re.search(r"python3 -m (pip install [^&]+)", step)
    assert command is not None
    assert "--no-deps" in command[1]
    done = subprocess.run(
        [
            sys.executable, "-m", *command[1].split(), "--target", tmp_path, "--quiet",
            "--python-version", "3.12", "--only-binary", ":all:", "--disable-pip-version-check",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if re.search("NewConnectionError|NameResolutionError|Max retries exceeded", done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    installed = {p.name.split("-")[0].lower() for p in tmp_path.glob("*.dist-info")}
    wanted = {re.split("==", line)[0].replace("-", "_").lower() for line in pins(path)}
    assert {each.replace(".", "_") for each in installed} == wanted
