"""Each image, built and run with the engine and the demo model inside: `make test-images`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest

from tests.images.conftest import MODEL, REVISION, TARGETS, Images
from tests.images.docker import STAND_IN, tag
from tests.live.conftest import LiveServer, registered
from tests.live.test_life_and_death import ENDLESS, Streams, story
from tests.live.test_runpod import CHAT, LiveWorker, openai
from tests.support.compute import GROUP, FakeCompute, fake_compute

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]
HOST_NETWORK = "--network=host"
READ_ONLY = ("--read-only", "--tmpfs=/tmp", "--tmpfs=/cache:uid=10001,gid=10001,mode=775,exec")
SOON = ("--health-interval=1s",)
"""The states of HEALTHCHECK, without a quarter of a minute between them."""
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
ASK = {"messages": FRANCE, "max_tokens": 24, "temperature": 0}
SERVE_UID = 10001
HEALTHCHECK = "/opt/serve-hathora/deploy/docker/healthcheck.py"
PASSWORD = "a-password-of-the-tests"
LOGIN = """
import json, paramiko, sys
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
secret = json.loads(sys.argv[1])
try:
    client.connect(
        "127.0.0.1", username="root", password=secret.get("password"),
        key_filename=secret.get("key_file"), allow_agent=False, look_for_keys=False,
    )
except (paramiko.SSHException, OSError):
    print("null")
else:
    said = client.exec_command("id -u; bash -ic env")[1].read().decode()
    user, _, environment = said.partition("\\n")
    print(json.dumps({"user": user, "environment": environment}))
client.close()
"""
fake = pytest.fixture(fake_compute)


def _server(
    images: Images, target: str, name: str, folder: Path, *options: str, **env: str
) -> LiveServer:
    command = images.docker.command(tag(target), name, options=(HOST_NETWORK, *SOON, *options))
    return LiveServer(folder, command=command, **env)


def _processes(images: Images, name: str) -> list[tuple[int, int, str]]:
    """Of each in a container its id on this machine, its user and its program."""
    listed = images.docker.say("top", name, "-eo", "pid,uid,args").splitlines()[1:]
    fields = [line.split(None, 2) for line in listed]
    return [
        (int(pid), int(uid), program.split()[0].rpartition("/")[2]) for pid, uid, program in fields
    ]


def _users(images: Images, name: str) -> dict[str, set[int]]:
    """Of each program in a container the users that it runs as."""
    users: dict[str, set[int]] = {}
    for _, uid, program in _processes(images, name):
        users.setdefault(program, set()).add(uid)
    return users


def _health(images: Images, name: str) -> str:
    return str(images.docker.inspect(name)["State"]["Health"]["Status"])


def _wait_for(holds: Callable[[], bool], within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.2)  # an engine's states are asked for


def _paris(server: LiveServer) -> None:
    answer = server.http.post(CHAT, json={**ASK, "model": MODEL})
    assert "Paris" in answer.json()["choices"][0]["message"]["content"], answer.text


def test_each_target_is_built_with_the_model_and_the_commit_inside(images: Images) -> None:
    base = images.docker.inspect(STAND_IN)["Size"]
    for target in TARGETS:
        told = images.docker.inspect(tag(target))
        print(
            f"{target}: built in {images.seconds[target]:.0f} s, "
            f"{(told['Size'] - base) / 1e6:.0f} MB over its base of {base / 1e9:.1f} GB"
        )
        labels = told["Config"]["Labels"]
        assert labels["org.opencontainers.image.title"].startswith("serve-hathora")
        history = images.docker.say("history", "--no-trunc", tag(target))
        assert "HF_TOKEN=" not in history
        version = images.docker.say("run", "--rm", "--network=none", tag(target), "--version")
        assert REVISION[:7] in version


@pytest.mark.parametrize("target", ["hathora", "pod"])
def test_the_server_answers_as_its_own_user_and_ends_in_order(
    images: Images, target: str, name: str, tmp_path: Path
) -> None:
    """HEALTHCHECK goes from starting to healthy, and to unhealthy while the server drains."""
    options = READ_ONLY if target == "hathora" else ()
    server = _server(images, target, name, tmp_path, *options, DRAIN_TIMEOUT="30")
    try:
        server.wait_for("/livez", 200)
        assert _health(images, name) == "starting"
        server.ready()
        _wait_for(lambda: _health(images, name) == "healthy")
        users = _users(images, name)
        assert users["tini"] == {SERVE_UID if target == "hathora" else 0}
        assert users["python3"] == {SERVE_UID}
        assert users["sglang::scheduler"] == {SERVE_UID}
        assert REVISION[:7] in server.get("/").text
        assert [each["id"] for each in server.get("/v1/models").json()["data"]] == [MODEL]
        _paris(server)
        if target == "hathora":
            with pytest.raises(subprocess.CalledProcessError):
                images.docker.within(name, "touch", "/opt/serve-hathora/x")
            images.docker.within(name, "touch", "/tmp/x", "/cache/x")
        streams = Streams(server, [story(ENDLESS)])
        streams.wait_begun(1)
        began = time.monotonic()
        with images.docker.begin("stop", "--time=120", name):
            _wait_for(lambda: _health(images, name) == "unhealthy", within_s=25)
            assert server.process.wait(90) == 0
        print(f"{target}: drained, and ended {time.monotonic() - began:.1f} s after docker stop")
        (ended,) = streams.join()
        assert ended["status"] == 200
        assert "shutting down" in ended["text"]
    finally:
        server.stop()


def test_the_worker_takes_jobs_as_its_own_user(images: Images, name: str, tmp_path: Path) -> None:
    """Started as root, so that it can give the volume's folders to that user."""
    volume = tmp_path / "volume"
    volume.mkdir()
    command = images.docker.command(
        tag("runpod"), name, options=(HOST_NETWORK, f"--volume={volume}:/runpod-volume")
    )
    worker = LiveWorker(tmp_path / "worker", command=command, JOB_OUTPUT="classic")
    try:
        worker.ready()
        assert "Healthcheck" not in images.docker.inspect(name)["Config"] or images.docker.inspect(
            name
        )["Config"]["Healthcheck"]["Test"] == ["NONE"]
        users = _users(images, name)
        assert users["python3"] == users["sglang::scheduler"] == {SERVE_UID}
        assert (volume / "huggingface-cache").stat().st_uid == SERVE_UID
        whole = worker.ask(openai(CHAT, **ASK)).output[0]
        assert "Paris" in whole["choices"][0]["message"]["content"]
        began = time.monotonic()
        images.docker.say("stop", "--time=120", name)
        assert worker.process.wait(60) == 0
        print(f"runpod: ended {time.monotonic() - began:.1f} s after docker stop")
    finally:
        worker.stop()


def test_the_supervisor_registers_the_container_and_takes_it_out(
    images: Images, name: str, tmp_path: Path, fake: FakeCompute
) -> None:
    """By the service account's key, at a Compute API on loopback."""
    server = _server(images, "hathora", name, tmp_path, *READ_ONLY, **fake.environ())
    try:
        registered(server.ready(), fake)
        _paris(server)
        images.docker.say("stop", "--time=120", name)
        assert server.process.wait(60) == 0
        assert not fake.endpoints[GROUP]
    finally:
        server.stop()


def test_the_supervisor_takes_it_out_when_the_server_is_killed(
    images: Images, name: str, tmp_path: Path, fake: FakeCompute
) -> None:
    server = _server(images, "hathora", name, tmp_path, *READ_ONLY, **fake.environ())
    try:
        registered(server.ready(), fake)
        (pid,) = [
            pid for pid, _, program in _processes(images, name) if program == "sglang::scheduler"
        ]
        os.kill(pid, signal.SIGKILL)
        assert server.process.wait(60) == 70
        assert not fake.endpoints[GROUP]
    finally:
        server.stop()


@pytest.mark.parametrize("way", ["key", "password", "nothing"])
def test_ssh_lets_in_by_what_was_given_and_by_nothing_else(
    images: Images, way: str, name: str, tmp_path: Path
) -> None:
    """Debian's own sshd, in a network of the container's own, beside a server without a model."""
    key = paramiko.RSAKey.generate(2048)
    given = {
        "key": {"SSH_PUBLIC_KEY": f"ssh-rsa {key.get_base64()} tests", "SSH_PASSWORD": PASSWORD},
        "password": {"SSH_PASSWORD": PASSWORD},
        "nothing": {},
    }[way]
    command = images.docker.command(
        tag("pod"), name, "--engine", "scripted", options=("--network=none",)
    )
    environment = {**given, "API_KEY": "secret-of-the-server", "RUNPOD_POD_ID": "pod-1"}
    with (tmp_path / "out.log").open("wb") as out:
        process = subprocess.Popen(
            command(environment), env={**os.environ, **environment}, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for(lambda: _is_ready(images, name))
        users = _users(images, name)
        assert users["python3"] == {SERVE_UID}
        assert ("sshd:" in users or "sshd" in users) is (way != "nothing")
        pid = images.docker.inspect(name)["State"]["Pid"]
        key_file = tmp_path / "key"
        key.write_private_key_file(str(key_file))
        assert _login(pid, key_file=str(key_file)) == ("in" if way == "key" else "out")
        assert _login(pid, password=PASSWORD) == ("in" if way == "password" else "out")
        assert _login(pid, password="wrong") == "out"
        assert PASSWORD not in (tmp_path / "out.log").read_text()
    finally:
        images.docker.say("stop", "--time=30", name)
        process.wait(60)
    assert process.returncode == 0


def _is_ready(images: Images, name: str) -> bool:
    try:
        images.docker.within(name, "python3", "-I", HEALTHCHECK)
    except subprocess.CalledProcessError:
        return False
    return True


def _login(pid: int, **secret: str) -> str:
    """Whether it lets in, and then what a session knows. From inside the container's network."""
    ran = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", LOGIN, json.dumps(secret)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    told = json.loads(ran.stdout)
    if told is None:
        return "out"
    assert told["user"] == "0"
    assert "RUNPOD_POD_ID=pod-1" in told["environment"]
    assert "secret" not in told["environment"].lower()
    return "in"
