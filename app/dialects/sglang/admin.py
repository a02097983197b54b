"""What the operator's routes are told (web/admin.py).

Source: AbortReq and ProfileReq (sglang/srt/managers/io_struct.py) of SGLang 0.5.23.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.dialects.body import Body


class AbortBody(Body):
    rid: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """A request's `X-Request-ID`, or the id in its answer."""
    abort_all: bool | None = None


class ProfileBody(Body):
    """Where the profile is written is the server's to say: SGLANG_TORCH_PROFILER_DIR."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "output_dir": (), "profile_prefix": (), "profile_id": (), "start_step": (),
        "profile_by_stage": (False,), "profile_stages": (), "merge_profiles": (False,),
        "detailed_annotations": (False,),
    }  # fmt: skip

    num_steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    activities: list[Literal["CPU", "GPU", "MEM"]] | None = None
    with_stack: bool | None = None
    record_shapes: bool | None = None
