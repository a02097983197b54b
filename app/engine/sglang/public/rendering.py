"""Conversations as token ids by Transformers' own way with chat templates.

SGLang's renderer (chat.py) knows more models: those with encoders or templates of its own are
served here by the template in their files, or by CHAT_TEMPLATE.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.engine.base import Rendered
from app.engine.fitting import Fitting, shown
from app.engine.sglang.chat import written
from app.engine.sglang.functions import written_as
from app.engine.sglang.output import AnswerFormat
from app.engine.sglang.tokenizers import vocabulary_of
from app.engine.sglang.tokens import ByteValues, Vocabulary
from app.errors import InvalidRequest, UnsupportedParameter
from app.grammars.compiler import Vocabulary as GrammarVocabulary
from app.types import ChatPrompt, Grammar, Json, texts

_MARK = "qzxv"


class TemplateRenderer:
    """Renders conversations with one tokenizer; belongs to one thread."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        template: str | None,
        tool_call_parser: str | None,
        reasoning_parser: str | None,
    ) -> None:
        """`template`: CHAT_TEMPLATE, a file; None: the model's own. The parsers by SGLang's
        names."""
        self._tokenizer = tokenizer
        if template is not None:
            tokenizer.chat_template = Path(template).read_text()
        text = str(tokenizer.chat_template or "")
        self._reads_parts = self._reads_no(_MARK) and not self._reads_no(_parts(_MARK))
        """Content is a list of parts to the template, not a text."""
        self._has_template = not self._reads_no(_parts(_MARK) if self._reads_parts else _MARK)
        self._opens_thinking = _opening(reasoning_parser)
        self.knows_tools = "tools" in text
        self.tool_call_parser = tool_call_parser if self.knows_tools else None
        self.reasoning_parser = reasoning_parser
        self._fitting = Fitting()
        if self._has_template:
            self._fitting = Fitting.tried(
                self._text,
                knows_tools=self.knows_tools,
                knows_developer="developer" in text,
                write=written_as(self.tool_call_parser),
            )

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        """Raises InvalidRequest if there is no template, or it refuses this conversation."""
        from jinja2 import TemplateError

        if not self._has_template:
            raise InvalidRequest(
                "This model has no chat template; use /v1/completions, or start the server with "
                "CHAT_TEMPLATE.",
                param=chat.param,
            )
        try:
            text = self._applied(self._fitting.fitted(chat))
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError,
                RecursionError) as error:  # fmt: skip
            # The template's own words only; Python's would tell of our insides.
            reason = f": {error}"[:300] if isinstance(error, TemplateError) else "."
            raise InvalidRequest(
                f"The model's chat template refuses this conversation{reason}", param=chat.param
            ) from error
        opened = text.rstrip().endswith(self._opens_thinking) if self._opens_thinking else False
        thinks = opened or (bool(self.reasoning_parser) and chat.continues and _thinks(chat))
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if chat.tool_use is None and self.reasoning_parser is None:
            return Rendered(ids, grammar=grammar)
        form = AnswerFormat(
            tool_call_parser=self.tool_call_parser,
            reasoning_parser=self.reasoning_parser,
            use=chat.tool_use,
            thinking=thinks,
            grammar=grammar,
            enforces_tags=False,
        )
        if form.grammar is not None and self.reasoning_parser is not None:
            raise UnsupportedParameter(
                "A schema, or a call that is required, is not supported for a model that thinks "
                "while it is served by SGLang's public API only.",
                param=form.grammar.param,
            )
        return Rendered(
            ids,
            grammar=form.grammar,
            reader=form.reader,
            # Where markers are special tokens the text would lack them.
            keep_special_tokens=(chat.tool_use is not None and self.tool_call_parser is not None)
            or self.reasoning_parser is not None,
        )

    def _reads_no(self, content: Any) -> bool:
        """The template shows nothing of a message with this content, or refuses it."""
        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False
            )
        except Exception:  # whatever a template raises, or that there is none
            return True
        return _MARK not in text

    def _text(self, chat: ChatPrompt) -> str | None:
        """A conversation as the model reads it; None if the template refuses it."""
        try:
            return self._applied(chat)
        except Exception:  # whatever a template raises
            return None

    def _applied(self, chat: ChatPrompt) -> str:
        use = chat.tool_use
        tools = use.tools if use is not None and self.knows_tools else ()
        switches: Json = dict(chat.template_kwargs or {})
        if chat.effort is not None:
            switches["reasoning_effort"] = chat.effort
        text: str = self._tokenizer.apply_chat_template(
            self._messages(chat),
            tools=[shown(tool) for tool in tools] or None,
            tokenize=False,
            add_generation_prompt=chat.begins_answer and not chat.continues,
            continue_final_message=bool(chat.continues),
            **switches,
        )
        return text

    def _messages(self, chat: ChatPrompt) -> list[Json]:
        """As the template reads them: content as one text or as parts, arguments as objects."""
        every = [_with_objects(written(message, {})) for message in chat.messages]
        for message in every:
            content = message.get("content")
            if isinstance(content, list):
                # As SGLang joins them; what an answer goes on from stays as it is.
                between = "" if chat.continues and message is every[-1] else " "
                content = between.join(part["text"] for part in content if "text" in part)
            if content and self._reads_parts:
                content = _parts(content)
            message["content"] = content
        return every


def _parts(text: str) -> list[Json]:
    return [{"type": "text", "text": text}]


def _opening(reasoning_parser: str | None) -> str:
    """What a prompt ends with after which the model thinks; empty: nothing, or it is not known."""
    if reasoning_parser is None:
        return ""
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    detector = getattr(ReasoningParser(reasoning_parser), "detector", None)
    return str(getattr(detector, "think_start_token", "") or "").strip()


def _thinks(chat: ChatPrompt) -> bool:
    """The message that the answer continues is still thinking."""
    text = "\n".join(texts(chat.messages[-1].parts))
    return "<think>" in text and "</think>" not in text


def _with_objects(message: Json) -> Json:
    for call in message.get("tool_calls", ()):
        try:
            arguments = json.loads(call["function"]["arguments"] or "{}")
        except ValueError:
            continue  # a model has written it
        if isinstance(arguments, dict):
            call["function"]["arguments"] = arguments
    return message


class Tokenizing:
    """A tokenizer and a renderer for the event loop, and a pair for one thread beside it."""

    def __init__(
        self, tokenizer: Any, render: Callable[[Any], TemplateRenderer], *, loop_thread: int
    ) -> None:
        """`tokenizer`: another's; what is used here are copies. `loop_thread`: its ident."""
        own, beside, for_scores = (copy.deepcopy(tokenizer) for _ in range(3))
        self._loop = loop_thread
        self._pairs = (own, render(own)), (beside, render(beside))
        self.vocabulary = Vocabulary(for_scores, byte_values(for_scores))
        """For the engine's thread."""

    def for_grammars(self, size: int, ends: Sequence[int]) -> GrammarVocabulary | None:
        """Not for the event loop: it takes a moment. `ends`: empty: the tokenizer's."""
        tokenizer, _ = self._pairs[1]
        return vocabulary_of(tokenizer, size, ends or [tokenizer.eos_token_id])

    def here(self) -> tuple[Any, TemplateRenderer]:
        return self._pairs[threading.get_ident() != self._loop]


def byte_values(tokenizer: Any) -> ByteValues:
    """Of a tokenizer of bytes; for others nothing."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or '"ByteLevel"' not in str(backend.to_str()):
        return lambda _: None
    value_of = {letter: value for value, letter in bytes_to_unicode().items()}

    def values(id: int) -> list[int] | None:
        letters = tokenizer.convert_ids_to_tokens(id) or ""
        if any(letter not in value_of for letter in letters):
            return None
        return [value_of[letter] for letter in letters]

    return values
