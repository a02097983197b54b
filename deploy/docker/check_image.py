"""Does this Python hold what the program needs? Run while the image is built, before any source.

The base image must have the SGLang that requirements.txt pins, and together with
requirements/image.txt every distribution that the program's own requirements ask for. SGLang's
further requirements are not checked: its image builds some of them itself, under other names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# As pyproject.toml declares them; tests/deploy/test_requirements.py holds them together.
NEEDED = (
    "sglang", "fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "prometheus-client",
    "structlog", "orjson", "msgspec", "psutil", "httpx", "rich", "llguidance", "sqlalchemy",
    "aiosqlite", "asyncpg", "pillow", "pybase64", "obstore", "python-multipart",
    "google-cloud-compute", "pyyaml", "python-dotenv", "shtab", "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
)  # fmt: skip


def lacking(pins: dict[str, str]) -> Iterator[str]:
    """One line for each distribution that is not installed, and for an SGLang that is not the
    pinned one."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    waiting = [Requirement(name) for name in NEEDED]
    while waiting:
        wanted = waiting.pop()
        name = str(canonicalize_name(wanted.name))
        if (name, tuple(sorted(wanted.extras))) in seen:
            continue
        seen.add((name, tuple(sorted(wanted.extras))))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            yield f"{name}=={pins[name]}" if name in pins else str(wanted)
            continue
        if name == "sglang":
            if installed.version != pins[name]:
                yield f"sglang=={pins[name]} (the base image has {installed.version})"
            continue
        for line in installed.requires or ():
            further = Requirement(line)
            extras = wanted.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(further)


def read_pins(path: Path) -> dict[str, str]:
    lines = [line.partition("==") for line in path.read_text().splitlines() if "==" in line]
    return {str(canonicalize_name(name)): version for name, _, version in lines}


def main() -> int:
    missing = sorted(lacking(read_pins(Path(sys.argv[1]))))
    for line in missing:
        print(f"check_image: lacks {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
