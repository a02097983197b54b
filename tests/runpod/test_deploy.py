"""The files of RunPod's Hub: the settings and job shapes that they name exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.runpod.jobs import Rules, read_job
from app.settings.load import load
from tests.support.serving import settings

FOLDER = Path(__file__).parents[2] / "deploy" / "runpod"


def content(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def inputs() -> list[Any]:
    tests = [test["input"] for test in content("tests.json")["tests"]]
    return [*tests, content("test_input.json")["input"]]


def test_every_setting_in_the_hubs_form_exists_and_accepts_its_values() -> None:
    variables = content("hub.json")["config"]["env"]
    defaults = {each["key"]: each["input"].get("default", "") for each in variables}
    environ = {key: str(value) for key, value in defaults.items()}
    loaded = load({}, environ)
    assert loaded.warnings == []
    assert set(loaded.origins.values()) == {key for key, value in environ.items() if value}
    for each in variables:
        assert each["input"]["type"] in ("string", "huggingface", "option", "number", "boolean")
        for option in each["input"].get("options", ()):
            load({}, environ | {each["key"]: option["value"]})


@pytest.mark.parametrize("input", inputs(), ids=str)
def test_the_hubs_tests_are_valid_jobs(input: Any) -> None:
    assert read_job(input, Rules.of(settings())).route


def test_the_hubs_tests_run_with_settings_that_exist() -> None:
    environ = {each["key"]: each["value"] for each in content("tests.json")["config"]["env"]}
    assert set(load({}, environ).origins.values()) == set(environ)
