"""What lies in deploy/ as data: Kubernetes objects, pods in them, variables that they set."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from app.settings.catalogue import DECLARATIONS
from tests.deploy.dockerfile import ROOT

Object: TypeAlias = dict[str, Any]
DEPLOY = ROOT / "deploy"
KUSTOMIZATIONS = sorted(DEPLOY.rglob("kustomization.yaml"))
SETTINGS = {name for declared in DECLARATIONS.values() for name in declared.names}


def objects(path: Path) -> list[Object]:
    return copy.deepcopy(_parsed(path))


@cache
def _parsed(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def files(kustomization: Path) -> list[Path]:
    """The manifests and patches that it names in its own folder."""
    content = objects(kustomization)[0]
    patches = [patch["path"] for patch in content.get("patches", ())]
    names = [*content.get("resources", ()), *patches]
    return [kustomization.parent / name for name in names]


def manifests() -> list[Path]:
    return [path for each in KUSTOMIZATIONS for path in files(each) if path.is_file()]


def everything() -> list[Object]:
    return [each for path in manifests() for each in objects(path)]


def pods(object: Object) -> Iterator[Object]:
    """Pod specifications, wherever they are in an object."""
    if isinstance(object.get("containers"), list):
        yield object
    for value in object.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from pods(each)


def containers() -> list[Object]:
    return [each for object in everything() for pod in pods(object) for each in pod["containers"]]
