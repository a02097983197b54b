"""Alert rules and dashboard: well-formed, and on series that the program has.

tests/live/test_monitoring.py looks each name up in a running server's /metrics.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from app.endpoint import NetworkState
from app.lifecycle import Phase
from tests.deploy.manifests import DEPLOY, objects

RULES = objects(DEPLOY / "monitoring/prometheusrule.yaml")[0]
DASHBOARD = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
ALERTS = [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]
DURATION = re.compile(r"\d+[smhd]|\$__rate_interval")


def panels() -> list[dict[str, Any]]:
    return [each for each in DASHBOARD["panels"] if each["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every PromQL expression in deploy/, by where it stands."""
    expressions = {rule["alert"]: rule["expr"] for rule in ALERTS}
    for panel in panels():
        for target in panel["targets"]:
            expressions[f"{panel['title']}, {target['refId']}"] = target["expr"]
    scaled = yaml.safe_load((DEPLOY / "kubernetes/overlays/keda/scaledobject.yaml").read_text())
    for number, trigger in enumerate(scaled["spec"]["triggers"]):
        expressions[f"trigger {number}"] = trigger["metadata"]["query"]
    return expressions


def series(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:serve_|sglang:)\w+", expression))


@pytest.mark.parametrize("where", expressions())
def test_an_expression_has_series_of_the_program_and_its_brackets_close(where: str) -> None:
    text = expressions()[where]
    assert series(text)
    bare = re.sub(r'"[^"]*"', '""', text)
    for opening, closing in ("()", "{}", "[]"):
        assert bare.count(opening) == bare.count(closing)
    for window in re.findall(r"\[([^\]]*)\]", bare):
        assert DURATION.fullmatch(window)
    # Counters and buckets only grow: without a rate they mean nothing.
    for name in re.findall(r"\b\w+(?:_total|_bucket)\b(?!.*by)", bare):
        assert re.search(rf"(rate|increase)\({name}", bare.replace("sglang:", "")), name


@pytest.mark.parametrize(
    ("series_name", "label", "values"),
    [("serve_phase", "phase", Phase), ("serve_network_state", "state", NetworkState)],
)
def test_states_in_expressions_exist(series_name: str, label: str, values: Any) -> None:
    states = re.findall(
        rf'{series_name}\{{[^}}]*{label}=~?"([^"]+)"', " ".join(expressions().values())
    )
    assert states
    assert {each for text in states for each in text.split("|")} <= set(values)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("Serve")
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "runbook"}
    assert DURATION.fullmatch(rule.get("for", "1s"))


def test_alerts_and_panels_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in ALERTS]
    ids = [each["id"] for each in DASHBOARD["panels"]]
    assert len(set(names)) == len(names)
    assert len(set(ids)) == len(ids)


def test_panels_do_not_cover_each_other_and_ask_the_chosen_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    sources = {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}
    assert sources == {"${datasource}"}
    assert {each["name"] for each in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}
