"""Conversations as token ids, by SGLang's own code for each model's way of prompting.

Written against sglang 0.5.23, `srt/entrypoints/openai/serving_chat.py`: `_process_messages` knows
the templates, encoders, switches and special cases of every model that SGLang serves, so it is
called here instead of written again. It also shows the tools to the model; grammars and parsers of
calls are output.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.engine.base import Rendered
from app.engine.fitting import Fitting, shown
from app.engine.sglang.functions import written_as
from app.engine.sglang.output import AnswerFormat
from app.errors import InvalidRequest
from app.reading.pieces import Reader
from app.types import (
    ChatPrompt,
    Grammar,
    Json,
    Message,
    Text,
    ToolUse,
    pictures_of,
    texts,
)


class ChatRenderer:
    """Renders conversations with one tokenizer; belongs to one thread."""

    def __init__(self, manager: Any, templates: Any, tokenizer: Any) -> None:
        from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
        from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat

        self._request = ChatCompletionRequest
        self._templates = templates
        self._serving = OpenAIServingChat(_WithTokenizer(manager, tokenizer), templates)
        self._tokenizer = tokenizer
        template = str(tokenizer.chat_template or "")
        self._has_template = (
            tokenizer.chat_template is not None
            or templates.chat_template_name is not None
            or templates.python_chat_template is not None
            or self._serving.chat_encoding_spec is not None
        )
        # Custom encoders and Python templates know tools; SGLang's named templates do not.
        self.knows_tools = templates.chat_template_name is None and (
            "tools" in template
            or self._serving.chat_encoding_spec is not None
            or templates.python_chat_template is not None
        )

        self.tool_call_parser = (
            manager.config_value("tool_call_parser") if self.knows_tools else None
        )
        """SGLang's name of the format in which the model calls tools; None: the model has none."""
        self.reasoning_parser = manager.config_value("reasoning_parser")
        """The same for the format in which the model thinks."""
        self._fitting = Fitting()
        if self._has_template:
            write = written_as(self.tool_call_parser)
            self._fitting = Fitting.tried(
                self._text,
                knows_tools=self.knows_tools,
                knows_developer="developer" in template,
                write=write,
            )

    def render(self, chat: ChatPrompt, grammar: Grammar | None) -> Rendered:
        """Raises InvalidRequest if there is no template, or it refuses this conversation."""
        if not self._has_template:
            raise InvalidRequest(
                "This model has no chat template; use /v1/completions, or start the server with "
                "CHAT_TEMPLATE.",
                param=chat.param,
            )
        # Of the request, in whose order they are decoded.
        places = {picture.param: no for no, picture in enumerate(pictures_of(chat))}
        chat = self._fitting.fitted(chat)
        processed, request = self._process(chat, places)
        stop = processed.stop or ()
        pictures = tuple(_place(image) for image in processed.image_data or ())
        # An answer that continues a message does not begin with thinking.
        thinks = not chat.continues or _thinks(chat.messages[-1])
        grammar, reader = self._answer(
            chat.tool_use,
            grammar,
            thinking=thinks
            and bool(processed.require_reasoning or self._templates.force_reasoning),
        )
        return Rendered(
            list(processed.prompt_ids or self._tokenizer.encode(processed.prompt)),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            grammar=grammar,
            reader=reader,
            gates_grammar=thinks and bool(processed.require_reasoning),
            keep_special_tokens=request.skip_special_tokens is False,
            text=processed.prompt if pictures else "",
            pictures=pictures,
        )

    def _process(self, chat: ChatPrompt, places: Mapping[str, int]) -> tuple[Any, Any]:
        """What SGLang makes of a conversation, and of which request. Raises InvalidRequest."""
        from jinja2 import TemplateError

        request = self._request(**self._fields(chat, places))
        # By default SGLang turns a last message of the assistant into one of the user.
        request._format_add_generation_prompt = None if chat.continues else chat.begins_answer
        try:
            processed = self._serving._process_messages(request, bool(places))
            if places:  # it keeps the last of those, whole
                self._serving._chat_template_cache.clear()
            return processed, request
        except (
            TemplateError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            IndexError,
            AssertionError,
            RecursionError,
        ) as error:
            # Templates refuse conversations by raising: "roles must alternate", and the like.
            # Its own words only; Python's would tell of our insides.
            own = error if isinstance(error, TemplateError) else error.__cause__
            reason = f": {own}"[:300] if isinstance(own, TemplateError) else "."
            raise InvalidRequest(
                f"The model's chat template refuses this conversation{reason}", param=chat.param
            ) from error

    def _text(self, chat: ChatPrompt) -> str | None:
        """A conversation as the model reads it; None if the template refuses it."""
        try:
            processed = self._serving._process_messages(
                self._request(**self._fields(chat, {})), False
            )
        except Exception:  # whatever a template raises
            return None
        return processed.prompt or str(self._tokenizer.decode(processed.prompt_ids))

    def _answer(
        self, use: ToolUse | None, grammar: Grammar | None, *, thinking: bool
    ) -> tuple[Grammar | None, Callable[[], Reader | None] | None]:
        """The grammar of the answer, and what makes the reader of each choice."""
        if use is None and self.reasoning_parser is None:
            return grammar, None
        form = AnswerFormat(
            tool_call_parser=self.tool_call_parser,
            reasoning_parser=self.reasoning_parser,
            use=use,
            thinking=thinking,
            grammar=grammar,
        )
        return form.grammar, form.reader

    def _fields(self, chat: ChatPrompt, places: Mapping[str, int]) -> Json:
        """`places`: of pictures, by the field that holds them."""
        tools = chat.tool_use.tools if chat.tool_use else ()
        messages = [written(message, places) for message in chat.messages]
        if chat.continues:
            messages[-1]["content"] = "".join(texts(chat.messages[-1].parts))
        fields: Json = {"model": "default", "messages": messages}
        if tools and self.knows_tools:
            fields["tools"] = [shown(tool) for tool in tools]
            fields["tool_choice"] = "auto"
        if chat.effort is not None:
            fields["reasoning_effort"] = chat.effort
        if chat.template_kwargs:
            fields["chat_template_kwargs"] = dict(chat.template_kwargs)
        if chat.continues:
            fields["continue_final_message"] = True
        return fields


def written(message: Message, places: Mapping[str, int]) -> Json:
    """The message as OpenAI's JSON, which SGLang takes."""
    written: Json = {"role": message.role, "content": _content(message, places)}
    if message.name is not None:
        written["name"] = message.name
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.calls:
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.calls
        ]
    if message.reasoning is not None:
        written["reasoning_content"] = message.reasoning
    return written


_MEDIA = "media:"


def _place(image: Any) -> int:
    return int(image.url.removeprefix(_MEDIA))


def _content(message: Message, places: Mapping[str, int]) -> str | list[Json]:
    """One text is plain text, which every template takes; several parts are a list."""
    parts = message.parts
    if not parts or (len(parts) == 1 and isinstance(parts[0], Text)):
        return "".join(texts(parts))
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else {"type": "image_url", "image_url": {"url": f"{_MEDIA}{places[part.param]}"}}
        for part in parts
    ]


class _WithTokenizer:
    """SGLang's tokenizer manager with another tokenizer: its own must stay on the event loop."""

    def __init__(self, manager: Any, tokenizer: Any) -> None:
        self._manager = manager
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


def _thinks(message: Message) -> bool:
    text = "\n".join(texts(message.parts))
    return "<think>" in text and "</think>" not in text
