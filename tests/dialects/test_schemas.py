"""Schemas of the bodies: descriptions come from the text below each field, and are true of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from app.dialects import schemas
from app.dialects.body import Body, Unsupported
from app.dialects.openai.responses.body import ResponsesBody
from app.dialects.routes import DIALECTS
from app.dialects.schemas import descriptions, schemas_of


class Inner(Body):
    depth: int
    """How deep it
    is."""


class Outer(Body):
    inner: Inner
    """What is inside."""
    named: Annotated[str | None, Field(alias="else")] = None
    """By another name in JSON."""
    bare: bool | None = None


class Further(Outer):
    unsupported: ClassVar[Unsupported] = {"bare": (False,), "gone": ()}
    reasons: ClassVar[Mapping[str, str]] = {"bare": "too cold"}
    descriptions: ClassVar[Mapping[str, str]] = {"named": "Means something else here."}


def test_the_text_below_a_field_describes_it_in_every_class_that_has_it() -> None:
    made = schemas_of([Outer, Further])
    described = {
        name: {field: each.get("description") for field, each in schema["properties"].items()}
        for name, schema in made.items()
    }
    assert described == {
        "Inner": {"depth": "How deep it is."},
        "Outer": {"inner": "What is inside.", "else": "By another name in JSON.", "bare": None},
        "Further": {
            "inner": "What is inside.",
            "else": "Means something else here.",
            "bare": "Refused with 400 `unsupported_parameter`, unless it is `false`: too cold.",
        },
    }


def test_fields_that_a_body_inherits_and_refuses_say_so() -> None:
    made = schemas_of([ResponsesBody])["ResponsesBody"]["properties"]
    refused = {name for name in made if made[name]["description"].startswith("Refused with 400")}
    beams = {"use_beam_search", "length_penalty", "early_stopping"}
    assert refused == made.keys() & ResponsesBody.unsupported.keys()
    assert refused == {"n", "response_format", *beams}


def bodies(body: type[Body] = Body) -> Iterator[type[Body]]:
    for each in body.__subclasses__():
        yield each
        yield from bodies(each)


def test_what_is_said_of_inherited_fields_is_said_of_fields_that_are_inherited() -> None:
    for body in bodies():
        for name in body.__dict__.get("descriptions", ()):
            assert name in body.model_fields, f"{body.__name__} has no {name}"
            assert name not in body.__annotations__, f"{body.__name__}.{name} has a text below it"


def test_without_the_source_bodies_are_described_without_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(_: object) -> str:
        raise OSError("could not get source code")

    complete = schemas_of([dialect.body for dialect in DIALECTS])
    monkeypatch.setattr(inspect, "getsource", gone)
    schemas._texts.cache_clear()
    try:
        bare = schemas_of([dialect.body for dialect in DIALECTS])
    finally:
        schemas._texts.cache_clear()
    assert bare.keys() == complete.keys()
    assert "description" not in bare["ChatBody"]["properties"]["messages"]
    assert "description" in complete["ChatBody"]["properties"]["messages"]


def test_a_description_does_not_change_how_a_body_is_read() -> None:
    assert "temperature" in descriptions(ResponsesBody)
    assert ResponsesBody.model_fields["temperature"].description is None
