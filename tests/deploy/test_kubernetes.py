"""The Kubernetes manifests: valid, complete, and of one mind with the program.

What kustomize makes of them is looked at where `kubectl` is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings.catalogue import Settings
from tests.deploy.dockerfile import ROOT, SERVE_UID
from tests.deploy.manifests import (
    KUSTOMIZATIONS,
    SETTINGS,
    Object,
    containers,
    everything,
    files,
    manifests,
    objects,
    pods,
)

CUSTOM = {"LeaderWorkerSet", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
PATCHES = {
    path
    for each in KUSTOMIZATIONS
    for path in files(each)
    if path.name in [patch["path"] for patch in objects(each)[0].get("patches", ())]
}
WHOLE = [path for path in manifests() if path not in PATCHES]
DRAIN_S = Settings.model_fields["drain_timeout_s"].default
DETACH_S = Settings.model_fields["gcp_timeout_s"].default


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def validate(object: Object) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(object, kubernetes_validate.latest_version(), strict=True)


def of(kind: str) -> list[Object]:
    return [each for each in everything() if each["kind"] == kind and each["metadata"]]


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=shown)
def test_a_kustomization_names_files_that_exist_and_forgets_none(path: Path) -> None:
    named = {each.resolve() for each in files(path)}
    assert all(each.exists() for each in named)
    beside = {each.resolve() for each in path.parent.glob("*.yaml")} - {path.resolve()}
    assert beside <= named


@pytest.mark.parametrize("path", WHOLE, ids=shown)
@pytest.mark.full
def test_a_manifest_is_valid_by_itself(path: Path) -> None:
    for each in objects(path):
        if each["kind"] not in CUSTOM:
            validate(each)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl, no kustomize")
@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=shown)
@pytest.mark.full
def test_what_kustomize_makes_of_it_is_valid(path: Path) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", path.parent], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for each in yaml.safe_load_all(done.stdout):
        if each["kind"] not in CUSTOM:
            validate(each)


def test_yamllint_has_nothing_to_say() -> None:
    yamllint = Path(sys.executable).with_name("yamllint")
    done = subprocess.run(
        [yamllint, "--strict", "deploy"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


# -- of one mind with the program ------------------------------------------------------------------
def test_every_variable_is_a_setting() -> None:
    variables = {each["name"] for container in containers() for each in container.get("env", ())}
    variables |= {name for each in of("ConfigMap") for name in each["data"]}
    # NAMESPACE: the router's own, for its arguments.
    assert variables - {"NAMESPACE"} <= SETTINGS


def test_ports_and_probes_are_the_programs() -> None:
    ports = {each["data"]["PORT"] for each in of("ConfigMap") if "PORT" in each["data"]}
    assert ports == {"8000"}
    (group,) = of("LeaderWorkerSet")
    followers = group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"]
    for container in containers():
        if container["name"] != "server" or "ports" not in container:
            continue
        assert container["ports"][0] == {"name": "http", "containerPort": 8000}
        # On the further machines of a model /readyz is never 200.
        follows = container in followers
        ready = {"path": "/health" if follows else "/readyz", "port": "http"}
        assert container["startupProbe"]["httpGet"] == ready
        assert container["readinessProbe"]["httpGet"] == ready
        assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}


def test_a_model_may_load_for_an_hour() -> None:
    for container in containers():
        if probe := container.get("startupProbe"):
            assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600


def server_pods() -> list[Object]:
    every = [pod for each in everything() for pod in pods(each)]
    return [pod for pod in every if "terminationGracePeriodSeconds" in pod]


def test_no_pod_is_killed_before_drain_and_removal_are_over() -> None:
    for pod in server_pods():
        (container,) = pod["containers"]
        if container["name"] == "server":
            before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
            needed = before.get("seconds", 0) + DRAIN_S + DETACH_S + 15
            assert pod["terminationGracePeriodSeconds"] >= needed


def test_no_pod_is_privileged() -> None:
    for pod in server_pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == SERVE_UID
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_what_a_read_only_server_writes_is_mounted() -> None:
    for pod in server_pods():
        (container,) = pod["containers"]
        if container["name"] == "server":
            mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
            volumes = {each["name"]: each for each in pod["volumes"]}
            assert mounts.keys() == {"/cache", "/dev/shm", "/tmp"}
            assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
            assert "persistentVolumeClaim" in volumes[mounts["/cache"]]


def test_secrets_come_from_secrets() -> None:
    for container in containers():
        for each in container.get("env", ()):
            if each["name"].endswith(("KEY", "TOKEN", "BASE64")):
                assert each["valueFrom"]["secretKeyRef"]["key"] == each["name"]


def test_without_its_secret_a_server_does_not_start_with_an_open_api() -> None:
    """But for the demo, whose patch says so."""
    whole = [pod for path in WHOLE for each in objects(path) for pod in pods(each)]
    servers = [each for pod in whole for each in pod["containers"] if each["name"] == "server"]
    answering = [each for each in servers if each["readinessProbe"]["httpGet"]["path"] == "/readyz"]
    assert len(answering) == 2
    for container in answering:
        (key,) = [each for each in container["env"] if each["name"] == "API_KEY"]
        assert not key["valueFrom"]["secretKeyRef"].get("optional")


# -- references between objects --------------------------------------------------------------------
def test_selectors_find_pods() -> None:
    labels: list[dict[str, str]] = [
        each["metadata"]["labels"]
        for object in everything()
        for each in templates(object)
        if "labels" in each.get("metadata", {})
    ]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        for each in of(kind):
            selector = each["spec"].get("selector") or each["spec"]["podSelector"]
            wanted = selector.get("matchLabels", selector)
            matches = [pod for pod in labels if wanted.items() <= pod.items()]
            assert matches, each["metadata"]


def templates(value: Any) -> list[Object]:
    """Pod templates, wherever they are in an object."""
    if isinstance(value, list):
        return [each for item in value for each in templates(item)]
    if not isinstance(value, dict):
        return []
    inner = [each for item in value.values() for each in templates(item)]
    return [value, *inner] if "containers" in (value.get("spec") or {}) else inner


def test_claims_and_config_maps_exist() -> None:
    claims = {each["metadata"]["name"] for each in of("PersistentVolumeClaim")}
    configs = {each["metadata"]["name"] for each in of("ConfigMap")}
    for pod in server_pods():
        for volume in pod.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for container in pod["containers"]:
            for each in container.get("envFrom", ()):
                assert each["configMapRef"]["name"] in configs


# -- custom resources ------------------------------------------------------------------------------
def test_the_scaled_object_scales_the_deployment() -> None:
    (scaled,) = of("ScaledObject")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    target = spec["scaleTargetRef"]
    assert target["name"] in {each["metadata"]["name"] for each in of("Deployment")}
    assert 0 < spec["minReplicaCount"] < spec["maxReplicaCount"]
    assert spec["cooldownPeriod"] >= 600
    for trigger in spec["triggers"]:
        assert trigger["type"] == "prometheus"
        assert trigger["metadata"].keys() >= {"serverAddress", "query", "threshold"}
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_the_machines_of_a_group_know_each_other() -> None:
    (group,) = of("LeaderWorkerSet")
    assert group["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    template = group["spec"]["leaderWorkerTemplate"]
    assert template["restartPolicy"] == "RecreateGroupOnPodRestart"
    (config,) = [each for each in of("ConfigMap") if "multi" in each["metadata"]["name"]]
    gpus = 0
    for role in ("leaderTemplate", "workerTemplate"):
        (container,) = template[role]["spec"]["containers"]
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert env["NNODES"] == "$(LWS_GROUP_SIZE)"
        assert env["NODE_RANK"] == "$(LWS_WORKER_INDEX)"
        assert env["DIST_INIT_ADDR"] == "$(LWS_LEADER_ADDRESS):20000"
        machines = 1 if role == "leaderTemplate" else template["size"] - 1
        gpus += machines * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert config["data"]["TP_SIZE"] == str(gpus)


def test_the_service_monitor_finds_the_services() -> None:
    (monitor,) = of("ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    (match,) = monitor["spec"]["selector"]["matchExpressions"]
    services = {each["metadata"]["labels"][match["key"]]: each for each in of("Service")}
    assert set(match["values"]) <= services.keys()
    for endpoint in monitor["spec"]["endpoints"]:
        assert endpoint["path"] == "/metrics"
        for name in match["values"]:
            assert endpoint["port"] in {each["name"] for each in services[name]["spec"]["ports"]}


def test_no_service_takes_the_name_that_a_leader_worker_set_makes_one_of() -> None:
    sets = {each["metadata"]["name"] for each in of("LeaderWorkerSet")}
    assert sets
    assert not sets & {each["metadata"]["name"] for each in of("Service")}
