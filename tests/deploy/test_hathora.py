"""The scripts that prepare Google Cloud, run against a recorder in place of gcloud."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

from tests.deploy.dockerfile import ROOT
from tests.deploy.manifests import objects

RECORDER = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
*"keys create"*) printf '{"type": "service_account"}' ;;
*"value(address)"*) echo 203.0.113.7 ;;
*"value(backends"*) echo "$BACKENDS" ;;
*" describe "*) exit "$DESCRIBED" ;;
esac
"""


class Cloud:
    """A stand-in for gcloud that records its calls; with `there`, every resource exists already."""

    def __init__(self, folder: Path, *, there: bool = False) -> None:
        (folder / "gcloud").write_text(RECORDER)
        (folder / "gcloud").chmod(0o755)
        backends = "x/zones/z-a/networkEndpointGroups/llm-serve-z-a" if there else ""
        self._calls = folder / "calls"
        self._env = {
            "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(self._calls),
            "DESCRIBED": "0" if there else "1", "BACKENDS": backends, "PROJECT": "p1",
        }  # fmt: skip

    def run(self, script: str, **env: str) -> str:
        command = ["sh", str(ROOT / "deploy/hathora" / script)]
        return subprocess.check_output(command, env={**self._env, **env}, text=True)

    def calls(self, *words: str) -> list[str]:
        lines = self._calls.read_text().splitlines()
        return [line for line in lines if all(word in line for word in words)]


def test_a_load_balancer_is_made_whole(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    out = cloud.run("create-load-balancer.sh", ZONES="z-a z-b", DOMAIN="llm.example.com")
    groups = cloud.calls("network-endpoint-groups create")
    assert [call.split()[3] for call in groups] == ["llm-serve-z-a", "llm-serve-z-b"]
    assert all("gce-vm-ip-port" in call for call in groups)
    (check,) = cloud.calls("health-checks create http")
    assert "--request-path=/readyz" in check
    (backend,) = cloud.calls("backend-services create")
    assert "--connection-draining-timeout=60s" in backend
    assert "--timeout=1800s" in backend
    assert len(cloud.calls("add-backend")) == 2
    (rule,) = cloud.calls("forwarding-rules create")
    assert "--target-https-proxy=llm-serve --ports=443" in rule
    assert "address: 203.0.113.7" in out
    assert all("--project=p1" in call for call in cloud.calls())


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, there=True)
    out = cloud.run("create-load-balancer.sh", ZONES="z-a")
    assert not cloud.calls(" create") + cloud.calls("add-backend")
    assert "created" not in out


def test_without_a_domain_there_is_no_certificate(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    cloud.run("create-load-balancer.sh", ZONES="z-a")
    assert not cloud.calls("ssl-certificates")
    assert len(cloud.calls("target-http-proxies create")) == 1


def test_the_service_account_gets_the_role_and_its_key_is_only_printed(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    out = cloud.run("create-service-account.sh")
    assert base64.b64decode(out, validate=False) == b'{"type": "service_account"}'
    assert out.count("\n") == 1
    (binding,) = cloud.calls("add-iam-policy-binding")
    assert "--role=projects/p1/roles/serveHathoraEndpoint" in binding
    (role,) = cloud.calls("iam roles create")
    assert role.endswith("role.yaml --quiet")


def test_the_role_holds_what_each_scope_takes_and_no_more() -> None:
    role = objects(ROOT / "deploy/hathora/role.yaml")[0]
    permissions = set(role["includedPermissions"])
    for kind in ("networkEndpointGroups", "regionNetworkEndpointGroups",
                 "globalNetworkEndpointGroups"):  # fmt: skip
        for verb in ("get", "list", "attachNetworkEndpoints", "detachNetworkEndpoints"):
            permissions.remove(f"compute.{kind}.{verb}")
    assert permissions == {
        "compute.instances.list", "compute.instances.use", "compute.zoneOperations.get",
        "compute.regionOperations.get", "compute.globalOperations.get",
    }  # fmt: skip
