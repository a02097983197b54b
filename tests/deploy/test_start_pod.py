"""start-pod.sh with stand-ins for sshd and its tools, writing below a folder instead of /."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT

SECRETS = {"API_KEY": "sk-secret", "HF_TOKEN": "hf-secret", "RUNPOD_API_KEY": "rp-secret"}


class Pod:
    """One start of the script. The entry point beside it tells how it would go on."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.root = folder / "root"
        program = folder / "docker"
        tools = folder / "bin"
        for each in (self.root, program, tools):
            each.mkdir()
        (program / "start-pod.sh").write_text((ROOT / "deploy/docker/start-pod.sh").read_text())
        _script(
            program / "entrypoint.sh",
            'echo "server: $*, umask $(umask)"\nenv >"$POD_ROOT/server-env"',
        )
        _script(tools / "sshd", f'env >"{self.root}/sshd-env"')
        _script(tools / "chpasswd", 'cat >"$POD_ROOT/chpasswd"; echo "$*" >"$POD_ROOT/argv"')
        _script(tools / "ssh-keygen", 'echo "$*" >"$POD_ROOT/keygen"')
        self.done = subprocess.run(
            ["sh", str(program / "start-pod.sh"), "--flag"], text=True, capture_output=True,
            env={"PATH": f"{tools}:/usr/sbin:/usr/bin:/bin", "POD_ROOT": str(self.root),
                 **SECRETS, **env},
        )  # fmt: skip

    def file(self, name: str) -> str:
        return (self.root / name).read_text()

    def written(self, name: str) -> bool:
        return (self.root / name).exists()

    @property
    def sshd(self) -> dict[str, str]:
        lines = self.file("etc/ssh/sshd_config.d/00-serve-hathora.conf").splitlines()
        return dict(line.split() for line in lines)


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_the_own_key_goes_before_the_platforms(tmp_path: Path) -> None:
    pod = Pod(tmp_path, SSH_PUBLIC_KEY="ssh-ed25519 mine", PUBLIC_KEY="ssh-ed25519 account")
    assert pod.file("root/.ssh/authorized_keys") == "ssh-ed25519 mine\n"
    assert (pod.root / "root/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    assert pod.file("keygen") == "-A\n"


def test_the_platforms_key_is_taken_if_it_is_the_only_one(tmp_path: Path) -> None:
    pod = Pod(tmp_path, PUBLIC_KEY="ssh-ed25519 account\nssh-rsa second")
    assert pod.file("root/.ssh/authorized_keys") == "ssh-ed25519 account\nssh-rsa second\n"
    assert pod.sshd["PasswordAuthentication"] == "no"
    assert pod.sshd["PermitRootLogin"] == "prohibit-password"


def test_a_password_counts_only_without_a_key(tmp_path: Path) -> None:
    pod = Pod(tmp_path, PUBLIC_KEY="ssh-ed25519 account", SSH_PASSWORD="hunter2")
    assert not pod.written("chpasswd")
    assert pod.sshd["PasswordAuthentication"] == "no"


def test_a_password_alone_is_set_through_a_pipe(tmp_path: Path) -> None:
    pod = Pod(tmp_path, SSH_PASSWORD="hunter2")
    assert pod.file("chpasswd") == "root:hunter2\n"
    assert pod.file("argv") == "\n"
    assert pod.sshd["PasswordAuthentication"] == pod.sshd["PermitRootLogin"] == "yes"


def test_without_key_and_password_there_is_no_sshd(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    assert not pod.written("sshd-env")
    assert "no sshd" in pod.done.stdout
    assert "server: --flag" in pod.done.stdout


@pytest.mark.parametrize("way", ["SSH_PUBLIC_KEY", "SSH_PASSWORD"])
def test_the_server_goes_on_with_its_environment_but_not_the_password(
    tmp_path: Path, way: str
) -> None:
    pod = Pod(tmp_path, MODEL_PATH="org/model", **{way: "hunter2"})
    assert pod.done.returncode == 0
    assert "server: --flag, umask 0022" in pod.done.stdout
    seen = pod.file("server-env")
    assert "MODEL_PATH=org/model" in seen
    assert "API_KEY=sk-secret" in seen
    assert "SSH_PASSWORD" not in seen


def test_no_secret_is_printed_or_left_for_ssh_sessions(tmp_path: Path) -> None:
    pod = Pod(tmp_path, SSH_PASSWORD="hunter2", RUNPOD_POD_ID="p1", CUDA_VERSION="13.0")
    left = pod.file("etc/rp_environment")
    assert "export RUNPOD_POD_ID='p1'" in left
    assert "export CUDA_VERSION='13.0'" in left
    for secret in ("hunter2", *SECRETS.values()):
        assert secret not in pod.done.stdout + pod.done.stderr + left + pod.file("sshd-env")


def test_the_environment_of_ssh_sessions_survives_any_value(tmp_path: Path) -> None:
    value = 'it\'s $HOME `id` "two"\nlines'
    pod = Pod(tmp_path, PUBLIC_KEY="k", RUNPOD_NOTE=value)
    script = f'. {pod.root}/etc/rp_environment; printf %s "$RUNPOD_NOTE"'
    assert subprocess.check_output(["sh", "-c", script], text=True) == value
    assert "rp_environment" in pod.file("root/.bashrc")
