"""The unit of systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.settings.catalogue import DECLARATIONS

UNIT = Path(__file__).parents[2] / "deploy/systemd/serve-hathora.service"
_NOT_OURS = {"HOME", "XDG_CACHE_HOME", "HF_HOME"}


def values(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_its_variables_are_settings() -> None:
    known = {name for each in DECLARATIONS.values() for name in each.accepted_names}
    named = {pair.partition("=")[0] for line in values("Environment") for pair in line.split()}
    assert named - _NOT_OURS <= known


def test_a_wrong_setting_is_not_tried_again_and_a_drain_has_its_time() -> None:
    assert values("RestartPreventExitStatus") == ["78"]
    assert values("KillMode") == ["mixed"]
    assert int(values("TimeoutStopSec")[0]) > DECLARATIONS["drain_timeout_s"].default


@pytest.mark.parametrize("name", ["PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"])
def test_nothing_takes_the_gpu_away(name: str) -> None:
    assert values(name) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub("^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
