"""deploy/runpod: what RunPod's hub reads, against a schema of the facts that are known of it.

Source: https://github.com/runpod-workers/worker-vllm/tree/main/.runpod (hub.json, tests.json),
read 2026-11; the platform publishes no schema.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.deploy.manifests import DEPLOY, SETTINGS

FOLDER = DEPLOY / "runpod"
TEXT = {"type": "string", "minLength": 1}
INPUT = {
    "type": "object",
    "required": ["name", "type"],
    "properties": {
        "name": TEXT,
        "type": {"enum": ["string", "huggingface", "option", "number", "boolean"]},
        "description": TEXT,
        "options": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "required": ["label", "value"]},
        },
    },
    "if": {"properties": {"type": {"const": "option"}}},
    "then": {"required": ["options"]},
}
HUB = {
    "type": "object",
    "required": ["title", "description", "type", "category", "config"],
    "properties": {
        "title": TEXT,
        "description": TEXT,
        "type": {"const": "serverless"},
        "category": {"const": "language"},
        "config": {
            "type": "object",
            "required": ["runsOn", "containerDiskInGb", "gpuIds", "gpuCount",
                         "allowedCudaVersions", "env"],
            "properties": {
                "runsOn": {"enum": ["GPU", "CPU"]},
                "containerDiskInGb": {"type": "integer", "minimum": 1},
                "gpuIds": TEXT,
                "gpuCount": {"type": "integer", "minimum": 1},
                "allowedCudaVersions": {"type": "array", "minItems": 1, "items": TEXT},
                "env": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["key"],
                        "properties": {"key": TEXT, "input": INPUT},
                        "anyOf": [{"required": ["input"]}, {"required": ["value"]}],
                    },
                },
            },
        },
    },
}  # fmt: skip
TESTS = {
    "type": "object",
    "required": ["tests", "config"],
    "properties": {
        "tests": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "input", "timeout"],
                "properties": {"input": {"type": "object"}, "timeout": {"type": "integer"}},
            },
        },
        "config": {"type": "object", "required": ["gpuTypeId", "gpuCount", "env"]},
    },
}


def read(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / name).read_text()))


@pytest.mark.parametrize(("name", "schema"), [("hub.json", HUB), ("tests.json", TESTS)])
def test_what_the_hub_reads_has_its_form(name: str, schema: dict[str, Any]) -> None:
    jsonschema.validate(read(name), schema)


def test_every_variable_of_the_form_is_a_setting_and_stands_once() -> None:
    keys = [each["key"] for each in read("hub.json")["config"]["env"]]
    assert set(keys) <= SETTINGS
    assert len(set(keys)) == len(keys)


def test_cuda_is_the_images() -> None:
    # SGLang's images are built on CUDA 13 from 0.5.21 on.
    versions = read("hub.json")["config"]["allowedCudaVersions"]
    assert all(version.startswith("13.") for version in versions)
