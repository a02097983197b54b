"""What SGLang's memory saver can give back: weights and cache leave the GPU.

Written against sglang 0.5.23, `srt/managers/tokenizer_control_mixin.py`. The weights are kept in
the machine's memory meanwhile (`enable_weights_cpu_backup`): else they would come back as noise.
"""

from __future__ import annotations

from typing import Any


class EngineMemory:
    def __init__(self, manager: Any) -> None:
        """`manager`: SGLang's TokenizerManager."""
        self._manager = manager

    async def is_idle(self) -> bool:
        from sglang.srt.managers.io_struct import FlushCacheReqInput

        # `flush_cache` has the answer of the replica that was the first.
        answers = await self._manager.flush_cache_communicator(FlushCacheReqInput())
        return all(answer.success for answer in answers)

    async def release(self) -> None:
        from sglang.srt.managers.io_struct import ReleaseMemoryOccupationReqInput

        await self._manager.release_memory_occupation(ReleaseMemoryOccupationReqInput())

    async def resume(self) -> None:
        from sglang.srt.managers.io_struct import ResumeMemoryOccupationReqInput

        await self._manager.resume_memory_occupation(ResumeMemoryOccupationReqInput())
