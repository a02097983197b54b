"""Which program this is: its release, its commit, the SGLang release beside it."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

import msgspec

from app import __version__
from app.processes import ROOT

_COMMIT_CHARS = 12


class Version(msgspec.Struct, frozen=True):
    release: str
    commit: str | None
    """None: neither a git checkout nor an image that says it."""
    sglang: str | None
    """None: not installed."""

    def __str__(self) -> str:
        return f"{self.release} (commit {self.commit or 'unknown'}, SGLang {self.sglang or 'none'})"


@cache
def version() -> Version:
    return Version(__version__, _commit(ROOT), _release_of("sglang"))


def _release_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """The commit of a git checkout, or what an image's build has written to `REVISION`."""
    for read in (_from_git, _from_file):
        try:
            if commit := read(root):
                return commit[:_COMMIT_CHARS]
        except OSError:
            continue
    return None


def _from_file(root: Path) -> str:
    return (root / "REVISION").read_text().strip()


def _from_git(root: Path) -> str:
    """What HEAD points at; read, because an image need not have git."""
    folder = root / ".git"
    if folder.is_file():  # a worktree: `gitdir: PATH`
        folder = root / folder.read_text().partition(": ")[2].strip()
    head = (folder / "HEAD").read_text().strip()
    ref = head.removeprefix("ref: ")
    if ref == head:
        return head
    common = folder / "commondir"
    shared = folder / common.read_text().strip() if common.exists() else folder
    if (shared / ref).exists():
        return (shared / ref).read_text().strip()
    packed = (shared / "packed-refs").read_text().splitlines()
    return next((line.split()[0] for line in packed if line.endswith(" " + ref)), "")
