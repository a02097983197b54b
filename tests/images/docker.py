"""A Docker Engine for the tests of the built images, and the images themselves.

The engine is the one that DOCKER_HOST or the default socket reaches, else Debian's own (packages
docker.io, debootstrap), started here without a network of its own. In place of SGLang's image,
which no registry is needed for then, stands Debian with the same packages from requirements.txt:

    debootstrap ─ pip's packages ─ lmsysorg/sglang:stand-in ─ Dockerfile.hathora ─ three images

IMAGES_DIR (default: .images) holds the stand-in from one run to the next, 12 GB.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deploy.dockerfile import ROOT
from tests.support import processes

FOLDER = Path(os.environ.get("IMAGES_DIR", ROOT / ".images")).absolute()
STAND_IN = "lmsysorg/sglang:stand-in"
BARE = "serve-hathora-tests/bare"
"""The stand-in before it knows where the hub of one run is."""
_PACKAGES = "python3,python3-pip,ca-certificates,procps,libnuma1,libgomp1,gcc,g++"
_OURS = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""By which this machine finds its package index, if it has them."""
_NEWER = (
    (re.compile(r"^# syntax=.*\n", re.MULTILINE), 25),
    (re.compile(r"(?<=COPY )--link "), 23),
    (re.compile(r"--start-interval=\S+ "), 25),
)
"""Flags of the Dockerfile, and the release of the engine from which it knows them."""


class Docker:
    """One engine, by its command line."""

    def __init__(self, program: str, host: str | None = None) -> None:
        self._words = [program] if host is None else [program, "-H", host]

    def say(self, *words: str, within_s: float = 120, **options: Any) -> str:
        """What a command prints. Raises CalledProcessError."""
        ran = subprocess.run(
            [*self._words, *words], text=True, capture_output=True, timeout=within_s, check=False,
            **options,
        )  # fmt: skip
        if ran.returncode:
            print(ran.stdout[-3000:], ran.stderr[-5000:], file=sys.stderr)
            ran.check_returncode()
        return ran.stdout.strip()

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._words, *words], stdout=subprocess.DEVNULL)

    @property
    def release(self) -> int:
        return int(self.say("version", "--format", "{{.Server.Version}}").partition(".")[0])

    def has(self, image: str) -> bool:
        return bool(self.say("images", "-q", image))

    def inspect(self, name: str) -> Any:
        return json.loads(self.say("inspect", name))[0]

    def within(self, name: str, *command: str, **options: Any) -> str:
        return self.say("exec", name, *command, **options)

    def command(
        self, image: str, name: str, *args: str, options: Sequence[str] = ()
    ) -> Callable[[Mapping[str, str]], list[str]]:
        """For a server's environment the words that run it, in the foreground."""

        def words(environment: Mapping[str, str]) -> list[str]:
            # Values are not among the arguments, which every user of the machine can read.
            names = (f"--env={name}" for name in environment)
            return [
                *self._words, "run", "--rm", "--name", name, *options, *names, image, *args,
            ]  # fmt: skip

        return words

    def build(self, target: str, **arguments: str) -> float:
        """An image of one target, named by it. Returns the seconds that it took."""
        text = (ROOT / "Dockerfile.hathora").read_text()
        for flag, release in _NEWER:
            if self.release < release:
                text = flag.sub("", text)
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        began = time.monotonic()
        self.say(
            "build", "--network=host", f"--target={target}", f"--tag={tag(target)}", *given,
            "--build-arg=SGLANG_TAG=stand-in", "--file=-", str(ROOT),
            input=text, within_s=1800, env={**os.environ, "DOCKER_BUILDKIT": "1"},
        )  # fmt: skip
        return time.monotonic() - began


def tag(target: str) -> str:
    return f"serve-hathora-tests/{target}"


@contextmanager
def docker() -> Iterator[Docker]:
    """The machine's engine, or one of our own. Raises RuntimeError if there can be none."""
    for program in filter(None, map(shutil.which, ("docker", "/usr/bin/docker"))):
        if _succeeds(program, "version") and _builds(program):
            yield Docker(program)
            return
    missing = [each for each in ("dockerd", "debootstrap") if shutil.which(each) is None]
    if missing or os.getuid():
        raise RuntimeError(
            "needs a Docker Engine; or root and Debian's packages docker.io and debootstrap "
            f"(missing: {', '.join(missing) or 'root'})"
        )
    with _own_engine() as made:
        yield made


@contextmanager
def _own_engine() -> Iterator[Docker]:
    FOLDER.mkdir(exist_ok=True)
    host = f"unix://{FOLDER}/docker.sock"
    with (FOLDER / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "-H", host, "--data-root", str(FOLDER / "data"), "--exec-root",
             str(FOLDER / "exec"), "-p", str(FOLDER / "dockerd.pid"), "--bridge=none",
             "--iptables=false", "--ip6tables=false"],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        # The package's own client: a newer one builds by a plugin that may not be there.
        made = Docker("/usr/bin/docker", host)
        until = time.monotonic() + 60
        while not (FOLDER / "docker.sock").exists() or not _answers(made):
            if daemon.poll() is not None or time.monotonic() > until:
                raise RuntimeError((FOLDER / "dockerd.log").read_text()[-2000:])
            time.sleep(0.2)  # the engine says nothing when it listens
        yield made
    finally:
        processes.stop(daemon)
        # It leaves the network of `--network=host` mounted, and the folder cannot be removed.
        left = FOLDER / "exec/netns/default"
        if left.exists():
            subprocess.run(["umount", str(left)], check=True)


def _builds(program: str) -> bool:
    """From release 23 on the client builds by a plugin."""
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    release = re.search(r"version (\d+)", version.stdout)
    assert release is not None, version.stdout
    return int(release[1]) < 23 or _succeeds(program, "buildx", "version")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _answers(made: Docker) -> bool:
    try:
        return made.release > 0
    except subprocess.CalledProcessError:
        return False


def ensure_stand_in(made: Docker, hub: str) -> None:
    """SGLang's image as far as the Dockerfile can tell; models come from `hub`, a URL."""
    wanted = hashlib.sha256(_base_pins().encode()).hexdigest()[:12]
    if not made.has(f"{BARE}:{wanted}"):
        _import(made, f"{BARE}:{wanted}")
    made.say(
        "build",
        f"--tag={STAND_IN}",
        "-",
        input=f"FROM {BARE}:{wanted}\nENV HF_ENDPOINT={hub}\n",
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )


def _base_pins() -> str:
    """What SGLang's own image has, and not what ours add."""
    added = {line.partition("==")[0] for line in _pins("requirements/image.txt")}
    pins = _pins("requirements.txt")
    return "\n".join(line for line in pins if line.partition("==")[0] not in added)


def _pins(path: str) -> list[str]:
    return [line for line in (ROOT / path).read_text().splitlines() if "==" in line]


def _import(made: Docker, name: str) -> None:
    root = FOLDER / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root))
    for path in filter(lambda each: Path(each).exists(), _OURS):
        shutil.copy(path, root / path.lstrip("/"))
    pins = FOLDER / "base.txt"
    pins.write_text(_base_pins())
    _run(
        str(ROOT / ".tools/bin/uv"), "pip", "install", "--quiet", "--compile-bytecode",
        "--python", sys.executable, "--no-deps", "--requirement", str(pins),
        "--target", str(root / "usr/local/lib/python3.11/dist-packages"),
    )  # fmt: skip
    with subprocess.Popen(
        ["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE
    ) as archive:  # whose pipe is closed at the end, whatever happens
        made.say("import", "-", name, stdin=archive.stdout, within_s=1800)
    assert archive.returncode == 0
    shutil.rmtree(root)


def _run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
