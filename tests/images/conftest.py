"""The three images, built once for a session: the demo model is inside each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from bench import models
from tests.images.docker import Docker, docker, ensure_stand_in, tag
from tests.support.hub import hub

MODEL = "org/demo"
REVISION = "0123456789abcdef0123456789abcdef01234567"
TARGETS = ("hathora", "runpod", "pod")


@dataclass
class Images:
    docker: Docker
    seconds: dict[str, float]
    """That the build of each target took."""


@pytest.fixture(scope="session")
def images() -> Iterator[Images]:
    model = models.find("demo")
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    with docker() as made:
        try:
            with hub(files) as url:
                ensure_stand_in(made, url)
                seconds = {
                    target: made.build(target, MODEL_NAME=MODEL, REVISION=REVISION)
                    for target in TARGETS
                }
            yield Images(made, seconds)
        finally:
            for target in TARGETS:
                with suppress(subprocess.CalledProcessError):  # it was not built
                    made.say("rmi", "-f", tag(target))


@pytest.fixture
def name(images: Images, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a container that is removed at the end of its test."""
    chosen = f"serve-hathora-tests-{abs(hash(request.node.name)) % 10**9}"
    yield chosen
    with suppress(subprocess.CalledProcessError):  # it is gone already
        images.docker.say("rm", "-f", chosen)
