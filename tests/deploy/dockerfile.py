"""Dockerfile.hathora taken apart, and a folder with what it copies: its steps, outside an image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVE_UID = 10001


@dataclass
class Stage:
    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Instruction and its text, continuation lines joined, flags included."""

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        return self.all(instruction)[-1]

    def env(self) -> dict[str, str]:
        pairs = (pair for text in self.all("ENV") for pair in text.split())
        return dict(pair.split("=", 1) for pair in pairs)


def stages(path: Path = ROOT / "Dockerfile.hathora") -> dict[str, Stage]:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages_by_name: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, rest = line.split(None, 1)
        if instruction == "FROM":
            base, _, name = rest.split()
            stages_by_name[name] = Stage(name, base)
        elif stages_by_name:
            stages_by_name[list(stages_by_name)[-1]].steps.append((instruction, rest))
    return stages_by_name


def exec_form(text: str) -> list[str]:
    """The arguments of ENTRYPOINT, CMD or HEALTHCHECK ... CMD."""
    return list(json.loads(text[text.index("[") :]))


def ignored(path: str) -> bool:
    """By .dockerignore: the last line that matches the path or a folder above it decides."""
    verdict = False
    folders = [path, *(str(parent) for parent in Path(path).parents)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        deep = "**/" in line
        if any(fnmatch(Path(f).name if deep else f, pattern) for f in folders if f != "."):
            verdict = not line.startswith("!")
    return verdict


def copy_source(target: Path) -> None:
    """What the stage `source` copies, and nothing that .dockerignore keeps out."""
    for text in stages()["source"].all("COPY"):
        *sources, destination = text.split()
        for source in sources:
            for path in _files(ROOT / source):
                inside = path.relative_to(ROOT / source) if path != ROOT / source else Path(source)
                if not ignored(path.relative_to(ROOT).as_posix()):
                    place = target / destination.lstrip("/") / inside
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, place)


def _files(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


@dataclass
class Container:
    """The image's program folder, its environment and its user, as far as this machine has them."""

    folder: Path
    environ: dict[str, str]
    user: list[str]
    """Words before a command that make it run as the server's user."""

    @property
    def program(self) -> Path:
        return self.folder / "program"

    def run(
        self, *command: str, root: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*([] if root else self.user), *command], env={**self.environ, **env}, text=True,
            cwd=self.folder, capture_output=True, timeout=120, check=False,
        )  # fmt: skip

    def entrypoint(self, *args: str, root: bool = False, **env: str) -> dict[str, str]:
        """The environment that the server would be started with; its arguments are `argv`."""
        (self.program / "serve_hathora.py").write_text(
            "import json, os, sys\n"
            "print(json.dumps({**os.environ, 'argv': sys.argv[1:], 'uid': os.getuid()}))\n"
        )
        done = self.run(str(self.program / "deploy/docker/entrypoint.sh"), *args, root=root, **env)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout), stderr=done.stderr)


@contextmanager
def container() -> Iterator[Container]:
    """A folder that uid 10001 may enter (pytest's own it may not), its program read-only."""
    folder = Path(tempfile.mkdtemp(prefix="image-"))
    try:
        folder.chmod(0o755)
        copy_source(folder / "program")
        cache = folder / "cache"
        cache.mkdir()
        if os.getuid() == 0:
            os.chown(cache, SERVE_UID, SERVE_UID)
        environ = {
            name: value.replace("/cache", str(cache), 1)
            for name, value in stages()["base"].env().items()
        }
        environ["BAKED_MODEL"] = str(folder / "models/baked.json")
        environ["PATH"] = f"{folder}/bin:{os.environ['PATH']}"
        environ["PYTHONDONTWRITEBYTECODE"] = "1"
        user = ["setpriv", f"--reuid={SERVE_UID}", f"--regid={SERVE_UID}", "--clear-groups", "--"]
        made = Container(folder, environ, user if os.getuid() == 0 else [])
        _put_python(made)
        yield made
    finally:
        shutil.rmtree(folder)


def _put_python(made: Container) -> None:
    """`python3` on the PATH: an interpreter that this user may run, with our packages."""
    script = made.folder / "bin/python3"
    script.parent.mkdir()
    packages = sysconfig.get_path("purelib")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        script.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {candidate} "$@"\n')
        script.chmod(0o755)
        if made.run("python3", "-c", "import pydantic_core").returncode == 0:
            return
    # No interpreter in a place that other users may enter: it runs as ourselves.
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    made.user = []
