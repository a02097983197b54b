"""JSON Schemas of the answers of SGLang's API, and of the server's own routes.

Answers are written by presenters, not from classes; tests/web/test_openapi.py holds real answers
against these. Objects may have more fields than are described: those are optional.

Source: SGLang's, as of the dialects.
"""

from __future__ import annotations

from app.types import Json
from app.web.schema_parts import array, count, flag, json_object, nullable, number, ref, text

_IDS: Json = {"type": "integer", "minimum": 0}
_REPLICA = count("Number of the engine's replica, from 0.")
_MODEL_PATH = text("Folder of the model, or its name on the hub.")
_PHASE = text("How far the server is, such as `loading`, `ready` or `draining`.")
SERVER: Json = {
    "Tokens": json_object(
        "Lists of lists if the prompt is a list.",
        tokens=array("The token ids.", {"anyOf": [_IDS, {"type": "array", "items": _IDS}]}),
        count={
            "anyOf": [_IDS, {"type": "array", "items": _IDS}],
            "description": "How many they are.",
        },
        max_model_len=count("Most tokens of a prompt and its answer together."),
    ),
    "Detokenized": json_object(
        text=text("The text, by SGLang's name."), prompt=text("The text, by vLLM's name.")
    ),
    "TokenCount": json_object(prompt_tokens=count("Tokens of the text.")),
    "Generated": json_object(
        text=text("The answer; in a stream the whole answer so far."),
        meta_info=json_object(
            "What SGLang tells of an answer.",
            id=text("Id of the request."),
            finish_reason={
                "description": "Why the answer ended: its `type`, and what it ended at. Null "
                "until then."
            },
            prompt_tokens=count("Tokens of the prompt."),
        ),
    ),
    "GeneratedList": {
        "anyOf": [ref("Generated"), {"type": "array", "items": ref("Generated")}],
        "description": "A list for several prompts or choices.",
    },
    "Server": json_object(
        service=text("Always `serve_hathora`."),
        version=text("Release of this server."),
        commit=nullable(text("Commit of this server's source, if it is known.")),
        sglang=nullable(text("Release of SGLang, if it is installed.")),
        engine=text("Which engine runs: the setting `ENGINE`."),
        model=text("The first of the model's names."),
        hathora_region=text("Region, by the setting `HATHORA_REGION`."),
        phase=_PHASE,
        endpoints=array("All paths of this server.", {"type": "string"}),
    ),
    "Health": json_object(
        status=text("`ok`, `starting`, `asleep`, `stalled`, or the phase that keeps it from ok."),
        engine_status=text("`ready`, `not_initialized`, `unavailable` or `stalled`."),
        model_path=_MODEL_PATH,
        phase=_PHASE,
        uptime_s=number("Seconds since the start."),
        in_flight=count("Requests that are being answered, of all serving processes."),
        optional={
            "downloaded_bytes": count("Bytes of the model that were downloaded so far."),
            "download_bytes": count("Bytes of the model to download."),
            "reason": text("Why the server is not ready."),
            "asleep": flag("The engine has given its memory back. Only present if it has."),
            "engine_silent_s": nullable(
                number("Seconds that an engine with work has said nothing; null without engine.")
            ),
        },
    ),
    "Probe": json_object(
        status=text("The answer of the probe in a word, such as `ok`."),
        optional={
            "phase": _PHASE,
            "latency_ms": number("Milliseconds that the generated token took."),
        },
    ),
    "ModelInfo": json_object(
        model_path=_MODEL_PATH,
        tokenizer_path=text("Folder of the tokenizer, or its name on the hub."),
        served_model_name=text("The first of the model's names."),
        is_generation=flag("The model generates text; false: it gives embeddings."),
        context_length=count("Tokens of the model's context."),
        has_image_understanding=flag("Pictures are taken."),
    ),
    "ServerInfo": json_object(
        "The engine's options, and these.",
        model_path=_MODEL_PATH,
        served_model_name=text("The first of the model's names."),
        max_total_num_tokens=count("Tokens that the KV cache holds, of all replicas."),
        version=text("Release of SGLang."),
        internal_states=array("What each replica is doing.", {"type": "object", "properties": {}}),
    ),
    "Loads": json_object(
        timestamp=text("When this was read, as ISO 8601 in UTC."),
        in_flight=count("Requests that are being answered, of all serving processes."),
        loads=array("What each replica is doing.", json_object(dp_rank=_REPLICA)),
    ),
    "LoadList": {
        "type": "array",
        "items": json_object(
            dp_rank=_REPLICA,
            num_reqs=count("Requests that it runs, and those that wait."),
            num_waiting_reqs=count("Requests that wait."),
            num_tokens=count("Tokens in the KV cache that are in use."),
        ),
    },
    "Done": json_object(
        success=flag("Always true: else the answer is an error."),
        message=text("What was done, for people to read."),
    ),
    "Aborted": json_object(aborted=count("Requests that were ended.")),
    "Sleeping": json_object(is_sleeping=flag("The engine has given its memory back.")),
}
