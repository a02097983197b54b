"""Sessions of agents through other models' chat templates; run by test_templates.py in a process of
its own, since importing SGLang changes the process it is imported into.

    templates_check.py FOLDER       prints a line of JSON for each template and session
"""

# ruff: noqa: E402
from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

warnings.simplefilter("ignore")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()
sys.path.insert(0, str(Path(__file__).parents[2]))

import orjson

from app.engine.scripted import ScriptedEngine
from app.types import ChatPrompt, texts
from bench import models
from tests.support import sessions
from tests.support.serving import serve

SESSIONS = ("codex", "claude_code")
_MANY = 10_000_000
Json = dict[str, Any]


async def conversations() -> dict[str, list[ChatPrompt]]:
    """What this server would have the template render, turn by turn."""
    asked: list[ChatPrompt] = []

    class Engine(ScriptedEngine):
        def render(self, chat: ChatPrompt, grammar: Any) -> Any:
            asked.append(chat)
            return super().render(chat, grammar)

    found: dict[str, list[ChatPrompt]] = {}
    engine = Engine("ok", context_length=_MANY, max_prompt_tokens=_MANY)
    async with serve(engine, SERVED_MODEL_NAME="local-model") as running:
        for name in SESSIONS:
            asked.clear()
            path, bodies = sessions.read(name)
            for body in bodies:
                answer = await running.client.post(path, json=body | {"stream": False})
                assert answer.status_code == 200, answer.text
            found[name] = list(asked)
            assert len(asked) == len(bodies)
    return found


class Renderers:
    """Renderers as the server makes them, but for the engine; all with the tiny model's tokens."""

    def __init__(self) -> None:
        from sglang.srt import runtime_context
        from sglang.srt.server_args import ServerArgs

        self._path = str(models.find("tiny"))
        self._arguments = ServerArgs(model_path=self._path, device="cpu")
        runtime_context.publish(self._arguments, role="test")

    def of(self, template: str) -> Any:
        from sglang.srt.parser.template_manager import TemplateManager
        from sglang.srt.utils.hf_transformers_utils import get_tokenizer

        from app.engine.sglang.chat import ChatRenderer

        tokenizer = get_tokenizer(self._path)
        tokenizer.chat_template = template
        config = SimpleNamespace(model_type="llama", architectures=["LlamaForCausalLM"])
        manager = SimpleNamespace(
            tokenizer=tokenizer,
            processor=None,
            server_args=self._arguments,
            model_path=self._path,
            served_model_name="local-model",
            config_value=lambda name: None,
            model_config=SimpleNamespace(
                get_default_sampling_params=dict, hf_config=config, is_multimodal=False
            ),
        )
        templates = TemplateManager()
        templates.load_chat_template(manager, None, self._path)
        return ChatRenderer(manager, templates, tokenizer), tokenizer


def shared(before: Sequence[int], after: Sequence[int]) -> float:
    """How much of a prompt the next one begins with."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(before), len(after))) / len(before)


def lost(chat: ChatPrompt, text: str) -> Iterator[str]:
    """What of a conversation the model does not read: the role of each text, names of calls."""
    read = _plain(text)
    for message in chat.messages:
        for said in texts(message.parts):
            quoted = orjson.dumps(said).decode()[1:-1]
            if not any(_plain(each) in read for each in (said, quoted, _ascii(said))):
                yield "text beside a call" if message.calls else message.role
        for call in message.calls:
            if call.name not in read:
                yield "call"
    for tool in chat.tool_use.tools if chat.tool_use else ():
        if tool.name not in read:
            yield "tool"


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _ascii(text: str) -> str:
    return re.sub(r"[^\x00-\x7f]", lambda each: f"\\u{ord(each[0]):04x}", text.replace("\n", "\\n"))


def report(renderers: Renderers, template: str, chats: list[ChatPrompt]) -> Json:
    from app.errors import InvalidRequest

    renderer, tokenizer = renderers.of(template)
    try:
        prompts = [renderer.render(chat, None).ids for chat in chats]
    except InvalidRequest as refused:
        return {"refused": str(refused)}
    return {
        "tokens": len(prompts[-1]),
        "least": min(shared(before, after) for before, after in pairwise(prompts)),
        "lost": sorted(set(lost(chats[-1], tokenizer.decode(prompts[-1])))),
    }


def main(folder: Path) -> None:
    found = asyncio.run(conversations())
    renderers = Renderers()
    logging.disable(logging.CRITICAL)
    for file in sorted(folder.rglob("*.jinja")):
        for name, chats in found.items():
            line = {"template": file.stem, "session": name}
            line |= report(renderers, file.read_text(), chats)
            print(orjson.dumps(line).decode(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
