"""The scripted engine has the signatures of a real one."""

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
def test_its_methods_take_what_an_engine_takes(name):
    expected = inspect.signature(getattr(Engine, name)).parameters
    actual = inspect.signature(getattr(ScriptedEngine, name)).parameters
    assert list(actual) == list(expected)
    assert [each.kind for each in actual.values()] == [each.kind for each in expected.values()]
