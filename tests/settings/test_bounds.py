"""Bounds: one declaration each, from which the dialects and the documents have them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.settings.bounds import Bounds, GrammarBounds, hard_limit
from app.settings.catalogue import DECLARATIONS
from app.settings.load import load

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
FIELDS = [(field, setting) for setting, each in DECLARATIONS.items() for field in each.bounds]


def test_every_bound_is_the_setting_of_its_name() -> None:
    settings = load({}, {"MAX_STOPS": "3", "MAX_SCHEMA_DEPTH": "7"}).settings
    bounds = Bounds.of(settings)
    for record in (bounds, bounds.grammar):
        for name in set(record.__struct_fields__) - {"grammar"}:
            assert getattr(record, name) == getattr(settings, name)
    assert (bounds.max_stops, bounds.grammar.max_schema_depth) == (3, 7)


def test_a_setting_that_bounds_a_field_of_a_request_is_among_the_bounds() -> None:
    names = {*Bounds.__struct_fields__, *GrammarBounds.__struct_fields__}
    assert {setting for _, setting in FIELDS} <= names


def test_fields_of_a_request_have_the_operators_bounds() -> None:
    bounds = Bounds.of(load({}, {"MAX_CHOICES": "3", "MAX_TOOLS": "5"}).settings)
    by_field = bounds.by_request_field()
    assert (by_field["n"], by_field["best_of"], by_field["tools"]) == (3, 3, 5)


def test_no_operator_can_allow_more_than_the_hard_limit() -> None:
    assert hard_limit("max_stop_token_ids") == 1024
    with pytest.raises(ValueError, match="max_messages has no upper limit"):
        hard_limit("max_messages")


@pytest.mark.parametrize(("field", "setting"), FIELDS)
def test_the_api_document_names_the_setting_beside_the_field(field: str, setting: str) -> None:
    assert re.search(rf"`{field}`[^\n]*`{DECLARATIONS[setting].names[0]}`", API)


def test_every_bound_that_the_api_document_names_is_a_setting() -> None:
    names = {name for each in DECLARATIONS.values() for name in each.names}
    documented = set(re.findall(r"`((?:MAX|MIN)_[A-Z_]+)`", API))
    assert documented <= names
