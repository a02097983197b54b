"""What engine/sglang.py relies on in SGLang, against the installed release.

In a process of its own: importing SGLang sets the process's event loop policy and much else.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONTRACT = """
import inspect, sys, warnings
warnings.simplefilter("ignore")
import sglang
import msgspec
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.managers.io_struct import ShutdownReq
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.parser.conversation import generate_chat_conv
from sglang.srt.server_args import ServerArgs
from sglang.version import __version__
assert __version__ == "0.5.23", __version__
generate = inspect.signature(Engine.async_generate).parameters
assert {"input_ids", "sampling_params", "stream", "rid"} <= set(generate)
source = inspect.getsource(TokenizerManager)
for name in ("handle_loop", "_dispatch_to_scheduler", "auto_create_handle_loop"):
    assert callable(getattr(TokenizerManager, name)), name
for name in ("self.event_loop = ", "self.last_receive_tstamp = ", "_subprocess_watchdog"):
    assert name in source, name
loop = inspect.getsource(TokenizerManager.auto_create_handle_loop)
assert "if self.event_loop is not None:\\n            return" in loop
engine = inspect.getsource(Engine.__init__)
for name in ("self.template_manager", "self._scheduler_init_result", "self.tokenizer_manager"):
    assert name in engine, name
fields = {field.name for field in msgspec.structs.fields(ServerArgs)}
import json
wanted = set(json.loads(sys.argv[1]))
assert wanted <= fields, wanted - fields
print("kept")
"""


def test_sglang_is_as_the_adapter_knows_it() -> None:
    import json

    from app.settings import Settings

    passed_on = [
        field.json_schema_extra["engine"]
        for field in Settings.model_fields.values()
        if field.json_schema_extra["engine"]
    ]
    ours = ["device", "incremental_streaming_output", "enable_metrics", "sleep_on_idle"]
    program = (
        "from app.engine import environment\nenvironment.use_cpu()\n" + CONTRACT
        if not Path("/dev/nvidia0").exists()
        else CONTRACT
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, json.dumps([*passed_on, *ours])],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    assert ran.stdout.strip().endswith("kept"), ran.stderr[-2000:]
