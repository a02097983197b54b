"""Puts `REVISION`, the commit that a wheel or a source archive is built from, into it.

`version` and `/server_info` show it (app/version.py). An archive has no git, but its own REVISION.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLACES = {"wheel": "serve_hathora_server/REVISION", "sdist": "REVISION"}


class RevisionHook(BuildHookInterface):  # type: ignore[type-arg,unused-ignore]
    _written: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        known = Path(self.root, "REVISION")
        if not known.exists():
            if (commit := _commit(self.root)) is None:
                return
            folder = Path(self.directory)
            folder.mkdir(parents=True, exist_ok=True)
            self._written = known = folder / "REVISION"
            known.write_text(commit + "\n")
        build_data["force_include"][str(known)] = _PLACES[self.target_name]

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._written is not None:
            self._written.unlink()


def _commit(root: str) -> str | None:
    """None as well if the checkout is another project's, which this folder only lies in."""
    git = ["git", "-c", "safe.directory=*", "-C", root, "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return None
    top, _, commit = done.stdout.strip().rpartition("\n")
    is_ours = done.returncode == 0 and Path(top).resolve() == Path(root).resolve()
    return commit if is_ours else None
