"""Write requirements/image.txt and requirements/image-runpod.txt: what SGLang's image lacks.

    python deploy/docker/lock.py        (in the project's folder; part of `make lock`)

Each is a difference of two resolutions under the pins of requirements.txt, for the image's Python:
the program's less SGLang's, and the RunPod worker's less the program's.

Of the SDK's `fastapi[all]` only FastAPI itself is used: the extra brings a command line, a cloud
client and OpenTelemetry's SDK, which would replace the image's.
"""

from __future__ import annotations

import subprocess
import tomllib
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGE_PYTHON = "3.12"
UV = Path(".tools/bin/uv")  # as the Makefile has it
HEAD = "# What SGLang's image lacks for {}; written by deploy/docker/lock.py.\n"


def resolve(*requirements: str) -> list[str]:
    command = [
        str(UV), "pip", "compile", "-q", "--python-version", IMAGE_PYTHON, "--no-header",
        "--no-annotate", "--no-emit-index-url", "-c", "requirements/dev.txt", "-",
    ]  # fmt: skip
    done = subprocess.run(
        command, input="\n".join(requirements), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()


def declared(*extras: str) -> list[str]:
    """What pyproject.toml declares for production, and these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [project["optional-dependencies"][extra] for extra in ("engine", *extras)]
    return [*project["dependencies"], *(each for extra in wanted for each in extra)]


def sdk() -> list[str]:
    """What the installed RunPod SDK requires, under the pins that the worker is tested with."""
    wanted = [line for line in requires("runpod") or () if not line.startswith("fastapi[")]
    return [*wanted, "-c requirements/runpod.txt"]


def pinned(name: str, path: str) -> list[str]:
    return [line for line in Path(path).read_text().splitlines() if line.startswith(name + "==")]


def main() -> None:
    engine = resolve(*pinned("sglang", "requirements.txt"))
    server = resolve(*declared())
    # The image's own pip is not replaced under itself.
    demo = [line for line in resolve(*declared("demo")) if not line.startswith("pip==")]
    worker = [*resolve(*declared(), *sdk()), *pinned("runpod", "requirements/runpod.txt")]
    for path, lines, what in (
        ("requirements/image.txt", sorted(set(server) - set(engine)), "the server"),
        ("requirements/image-demo.txt", sorted(set(demo) - set(server)), "the demo model"),
        ("requirements/image-runpod.txt", sorted(set(worker) - set(server)), "its RunPod worker"),
    ):
        Path(path).write_text(HEAD.format(what) + "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
