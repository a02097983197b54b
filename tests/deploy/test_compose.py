"""The compose files, the router's manifests and its image."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from app.settings.catalogue import Settings
from tests.deploy.dockerfile import ROOT, exec_form, stages
from tests.deploy.manifests import SETTINGS, containers

COMPOSE = sorted((ROOT / "deploy").rglob("compose.yaml"))
EXAMPLES = sorted((ROOT / "deploy").rglob("*.env.example"))
DRAIN_S = Settings.model_fields["drain_timeout_s"].default
DETACH_S = Settings.model_fields["gcp_timeout_s"].default


def services(path: Path) -> dict[str, dict[str, object]]:
    return dict(yaml.safe_load(path.read_text())["services"])


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)
def test_compose_files_are_valid(path: Path) -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [check, "--builtin-schema", "vendor.compose-spec", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)
def test_compose_builds_what_is_there_and_waits_for_the_drain(path: Path) -> None:
    for name, service in services(path).items():
        build = service["build"]
        assert isinstance(build, dict)
        folder = (path.parent / build["context"]).resolve()
        assert (folder / build.get("dockerfile", "Dockerfile")).exists()
        if not name.startswith("server"):
            continue
        assert build["target"] in stages()
        grace = re.fullmatch(r"(\d+)s", str(service["stop_grace_period"]))
        assert grace is not None
        assert int(grace[1]) >= DRAIN_S + DETACH_S + 15
        (env_file,) = service["env_file"]  # type: ignore[misc]
        assert (path.parent / f"{env_file['path']}.example").exists()


def test_composes_health_check_is_the_images() -> None:
    (path,) = [each for each in COMPOSE if each.parent.name == "docker"]
    check = services(path)["server"]["healthcheck"]
    assert isinstance(check, dict)
    assert check["test"][1:] == exec_form(stages()["base"].last("HEALTHCHECK"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_of_environments_name_settings_and_hold_no_secret(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    variables = dict(line.split("=", 1) for line in lines)
    assert variables.keys() <= SETTINGS
    assert all(
        not value for name, value in variables.items() if name.endswith(("KEY", "TOKEN", "64"))
    )


# -- the router ------------------------------------------------------------------------------------
def router_arguments() -> dict[str, list[str]]:
    (compose,) = [each for each in COMPOSE if each.parent.name == "router"]
    (router,) = [each for each in containers() if each["name"] == "router"]
    return {
        "compose": services(compose)["router"]["command"],  # type: ignore[dict-item]
        "kubernetes": router["args"],
    }


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
@pytest.mark.full
def test_the_installed_router_knows_every_argument(where: str) -> None:
    from sglang_router.launch_router import parse_router_args

    arguments = router_arguments()[where]
    taken = parse_router_args(arguments)
    assert taken.policy == "cache_aware"
    assert taken.health_check_endpoint == "/health"
    assert taken.retry_max_retries == 2
    assert taken.service_discovery is (where == "kubernetes")
    assert taken.max_payload_size == Settings().most_body_bytes(pictures=True)


@pytest.mark.full
def test_the_router_finds_the_servers() -> None:
    from sglang_router.launch_router import parse_router_args

    (compose,) = [each for each in COMPOSE if each.parent.name == "router"]
    urls = parse_router_args(router_arguments()["compose"]).worker_urls
    servers = [name for name in services(compose) if name.startswith("server")]
    assert urls == [f"http://{name}:8000" for name in servers]
    arguments = parse_router_args(router_arguments()["kubernetes"])
    assert arguments.selector == {"app.kubernetes.io/name": "serve-hathora"}
    assert arguments.service_discovery_port == 8000


@pytest.mark.full
def test_the_routers_image_has_the_router_that_is_tested() -> None:
    text = (ROOT / "deploy/router/Dockerfile").read_text()
    assert f"ARG SGLANG_ROUTER_VERSION={version('sglang-router')}\n" in text
