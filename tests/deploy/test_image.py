"""The steps of Dockerfile.hathora, one by one, outside an image."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import __version__
from tests.deploy.dockerfile import (
    ROOT,
    SERVE_UID,
    Container,
    container,
    exec_form,
    ignored,
    stages,
)
from tests.deploy.manifests import SETTINGS, containers

# Read by the base image, Python or a library; not settings of ours.
FOREIGN = {
    "HOME", "XDG_CACHE_HOME", "HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
    "FLASHINFER_WORKSPACE_BASE", "SGLANG_CACHE_DIR", "PYTHONUNBUFFERED", "BAKED_MODEL",
}  # fmt: skip


@pytest.fixture
def image() -> Iterator[Container]:
    with container() as made:
        yield made


def test_the_default_target_is_the_server_and_not_root() -> None:
    last = list(stages().values())[-1]
    assert last.name == "hathora"
    assert last.last("USER") == f"{SERVE_UID}:{SERVE_UID}"


def test_the_base_image_is_of_the_pinned_sglang() -> None:
    tag = re.search(r"ARG SGLANG_TAG=v([\d.]+)-", (ROOT / "Dockerfile.hathora").read_text())
    assert tag is not None
    assert f"sglang=={tag[1]}\n" in (ROOT / "requirements.txt").read_text()


def test_the_images_version_is_the_programs() -> None:
    assert f"VERSION={__version__}" in stages()["hathora"].all("ARG")
    tags = {
        each["image"] for each in containers() if each.get("image") and each["name"] == "server"
    }
    assert tags == {f"serve-hathora:{__version__}"}


def test_every_process_starts_below_an_init_and_ends_by_sigterm() -> None:
    for stage in stages().values():
        for text in stage.all("ENTRYPOINT"):
            assert exec_form(text)[:2] == ["/usr/bin/tini", "--"]
    assert stages()["base"].last("STOPSIGNAL") == "SIGTERM"


def test_dependencies_come_before_the_program() -> None:
    for name in ("hathora", "runpod", "pod"):
        steps = stages()[name].steps
        program = next(i for i, (_, text) in enumerate(steps) if "--from=source" in text)
        assert not [text for kind, text in steps[program:] if kind == "RUN"]


def test_no_secret_is_kept_in_the_image() -> None:
    for stage in stages().values():
        names = [text.partition("=")[0] for text in stage.all("ARG")] + list(stage.env())
        assert not [n for n in names if re.search("KEY|SECRET|PASSWORD|TOKEN(?!IZER)", n)]


def test_every_variable_is_a_setting_or_of_a_named_other_program() -> None:
    for stage in stages().values():
        assert set(stage.env()) <= SETTINGS | FOREIGN


def test_every_build_argument_is_documented() -> None:
    text = (ROOT / "Dockerfile.hathora").read_text()
    names = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE)) - {"VERSION", "REVISION"}
    documented = (ROOT / "docs/images.md").read_text()
    assert {name for name in names if f"`{name}`" not in documented} == set()


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    for stage in stages().values():
        for text in stage.all("COPY"):
            if "--from" not in text:
                for source in text.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert not ignored(source), source
    assert ignored("tests/conftest.py")
    assert ignored("deploy/docker/serve.env")
    assert ignored("deploy/docker/compose.yaml")
    assert not ignored("deploy/docker/baked.py")
    assert ignored("app/__pycache__/cli.cpython-311.pyc")


def test_the_copied_files_start_as_the_unprivileged_user(image: Container) -> None:
    done = image.run(str(image.program / "deploy/docker/entrypoint.sh"), "settings")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^LOG_FILE +LOG_FILE$", done.stdout, re.MULTILINE)
    assert f"{image.folder}/cache/serve-hathora" in done.stdout
    written = [p for p in image.program.rglob("*") if p.stat().st_uid == SERVE_UID]
    assert not written or os.getuid() == SERVE_UID


def test_arguments_and_environment_reach_the_server(image: Container) -> None:
    seen = image.entrypoint("--served-model-name", "two words", TP_SIZE="2")
    assert seen["argv"] == ["--served-model-name", "two words"]
    assert (seen["TP_SIZE"], seen["LOG_FILE"]) == ("2", "")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, as a container's start has")
def test_started_as_root_it_gives_the_caches_away_and_drops(image: Container) -> None:
    if not image.user:
        pytest.skip("no interpreter that another user may run")
    volume = image.folder / "volume"
    (volume / "hub").mkdir(parents=True)
    seen = image.entrypoint("runpod", root=True, HF_HOME=str(volume))
    assert (seen["uid"], seen["argv"]) == (SERVE_UID, ["runpod"])
    assert (volume / "hub").stat().st_uid == SERVE_UID
    assert Path(seen["TRITON_CACHE_DIR"]).stat().st_uid == SERVE_UID


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, as a container's start has")
def test_a_volume_that_cannot_be_given_away_is_said_and_still_read(image: Container) -> None:
    blocked = image.folder / "blocked"
    blocked.write_text("a file, no folder")
    seen = image.entrypoint(root=True, HF_HOME=str(blocked / "hf"))
    assert f"cannot give {blocked}/hf to uid {SERVE_UID}" in seen["stderr"]


def test_a_cache_that_cannot_be_written_is_said_in_one_line(image: Container) -> None:
    blocked = image.folder / "blocked"
    blocked.write_text("a file, no folder")
    script = str(image.program / "deploy/docker/entrypoint.sh")
    done = image.run(script, "settings", TRITON_CACHE_DIR=str(blocked / "triton"))
    assert done.returncode == 78
    assert f"cannot write {blocked}/triton" in done.stderr


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(b'{"phase":"x"}')

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_server_gets_healthy_and_ends_cleanly(image: Container) -> None:
    """The real program with a scripted engine, below the entry point and not as root."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        [*image.user, str(image.program / "deploy/docker/entrypoint.sh")], cwd=image.folder,
        env={**image.environ, "HOST": "127.0.0.1", "PORT": port, "ENGINE": "scripted"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while healthcheck(image, PORT=port).returncode and time.monotonic() < deadline:
            assert process.poll() is None
        assert healthcheck(image, PORT=port).returncode == 0
    finally:
        process.terminate()
    assert process.wait(60) == 0


def healthcheck(image: Container, **env: str) -> subprocess.CompletedProcess[str]:
    command = exec_form(stages()["base"].last("HEALTHCHECK"))
    here = [part.replace("/opt/serve-hathora", str(image.program)) for part in command]
    return image.run(*here, http_proxy="http://127.0.0.1:9", **env)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
@pytest.mark.parametrize("name", ["PORT", "HATHORA_DEFAULT_PORT"])
def test_the_health_check_asks_the_servers_port(
    image: Container, status: int, code: int, name: str
) -> None:
    with answering(status) as port:
        done = healthcheck(image, **{name: str(port)})
    assert done.returncode == code
    assert '{"phase":"x"}' in done.stdout


def test_the_health_check_knows_the_port_of_a_deployments_settings(image: Container) -> None:
    with answering(200) as port:
        config = json.dumps({"Port": port, "hathora-default-port": 9})
        done = healthcheck(image, DEPLOYMENT_CONFIG_JSON=config)
        over = healthcheck(image, DEPLOYMENT_CONFIG_JSON=config, PORT="9")
    assert (done.returncode, over.returncode) == (0, 1)


def test_the_health_check_fails_when_no_server_answers(image: Container) -> None:
    with answering(200) as port:
        pass
    done = healthcheck(image, PORT=str(port))
    assert done.returncode == 1
    assert f"no answer on port {port}" in done.stdout


@pytest.mark.parametrize("name", ["Dockerfile.hathora", "deploy/router/Dockerfile"])
@pytest.mark.full
def test_hadolint_has_nothing_to_say(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "-c", ".hadolint.yaml", name], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.full
def test_shellcheck_has_nothing_to_say() -> None:
    scripts = sorted((ROOT / "deploy").rglob("*.sh"))
    assert all(os.access(script, os.X_OK) for script in scripts)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
