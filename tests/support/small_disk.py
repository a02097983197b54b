"""A file system of a few megabytes, for programs that must outlive a full one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def on_small_disk(folder: Path, megabytes: int, *command: str) -> list[str]:
    """`command` with a small file system at `folder`, which nothing else sees.

    Skips the test where the kernel does not allow mounts in a namespace of one's own.
    """
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*enter, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mounts in a namespace of one's own here")
    mount = f'mount -t tmpfs -o size={megabytes}m none "$0" && exec "$@"'
    return [*enter, "sh", "-c", mount, str(folder), *command]
