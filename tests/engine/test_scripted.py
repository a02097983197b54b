"""The scripted engine can stand where a real one does."""

from __future__ import annotations

import inspect

import pytest

from app.engine.base import Engine, Launched
from tests.support.scripted import ScriptedEngine

METHODS = [
    name
    for protocol in (Launched, Engine)
    for name, each in vars(protocol).items()
    if name[0] != "_" and callable(each)
]


@pytest.mark.parametrize("name", METHODS)
def test_it_is_asked_as_an_engine_is(name):
    asked = inspect.signature(getattr(Engine, name)).parameters
    answers = inspect.signature(getattr(ScriptedEngine, name)).parameters
    assert list(answers) == list(asked)
    assert [each.kind for each in answers.values()] == [each.kind for each in asked.values()]
