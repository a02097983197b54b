"""Pictures in the requests of all dialects: how many, and where they may stand."""

from __future__ import annotations

from collections.abc import Sequence

from app.dialects.contract import Call
from app.errors import InvalidRequest, UnsupportedParameter
from app.types import Message, Picture

_ROLES = ("user", "tool")


def check(messages: Sequence[Message], call: Call, *, param: str = "messages") -> None:
    """Of a conversation; `param`: the field that holds it. Raises InvalidRequest."""
    found = [
        (message, part)
        for message in messages
        for part in message.parts
        if part.__class__ is Picture
    ]
    if not found:
        return
    check_count([part for _, part in found], call, param=param)
    for message, part in found:
        if message.role not in _ROLES:
            raise InvalidRequest(
                f"Invalid value for '{part.param}': pictures are taken in messages of the user "
                f"and of tools, and not in one of role '{message.role}'.",
                param=part.param,
            )


def check_count(pictures: Sequence[Picture], call: Call, *, param: str = "image_data") -> None:
    """Of a request. Raises InvalidRequest."""
    if pictures and not call.model.info.takes_pictures:
        raise UnsupportedParameter(
            "This model takes text only: pictures are not supported.", param=pictures[0].param
        )
    most = call.bounds.media_max_images
    if len(pictures) > most:
        raise InvalidRequest(
            f"Invalid value for '{param}': must have at most {most} pictures (MEDIA_MAX_IMAGES).",
            param=param,
            code="array_above_max_length",
        )
