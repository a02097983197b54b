"""Pictures in the conversations of all dialects: how many, and where they may stand."""

from __future__ import annotations

from collections.abc import Sequence

from app.engine.base import EngineInfo
from app.errors import InvalidRequest, UnsupportedParameter
from app.settings.bounds import Bounds
from app.types import Message, Picture

_ROLES = ("user", "tool")


def check(messages: Sequence[Message], info: EngineInfo, bounds: Bounds, *, param: str) -> None:
    """`param`: the field that holds the conversation. Raises InvalidRequest."""
    count = 0
    for message in messages:
        for part in message.parts:
            if not isinstance(part, Picture):
                continue
            if not info.takes_pictures:
                raise UnsupportedParameter(
                    "This model takes text only: pictures are not supported.", param=part.param
                )
            if message.role not in _ROLES:
                raise InvalidRequest(
                    f"Invalid value for '{part.param}': pictures are taken in messages of the user "
                    f"and of tools, and not in one of role '{message.role}'.",
                    param=part.param,
                )
            count += 1
    if count > bounds.media_max_images:
        raise InvalidRequest(
            f"Invalid value for '{param}': must have at most {bounds.media_max_images} pictures "
            "(MEDIA_MAX_IMAGES).",
            param=param,
            code="array_above_max_length",
        )
