"""Which answer each route has, and its errors, for the description of the API."""

from __future__ import annotations

from app.types import Json
from app.web.schema_parts import ref
from app.web.server_answers import SERVER
from app.web.vendor_answers import ANTHROPIC, OPENAI, RESPONSES

SCHEMAS: Json = OPENAI | RESPONSES | ANTHROPIC | SERVER
"""Of the answers, by their names."""
STORE_FAILS = "The store is not available."


def error_answers(fault: str, path: str = "") -> Json:
    """`fault`: what a 5xx means."""
    form = "AnthropicError" if path.startswith("/v1/messages") else "Error"
    content = {"application/json": {"schema": ref(form)}}
    return {
        "4XX": {"description": "The request is at fault.", "content": content},
        "5XX": {"description": fault, "content": content},
    }


def of(route: str) -> str | None:
    """The schema's name of a route such as `GET /health`."""
    return _ANSWERS.get(route)


_ANSWERS = {
    "GET /": "Server",
    "GET /health": "Health",
    "GET /livez": "Probe",
    "GET /readyz": "Probe",
    "GET /ping": "Probe",
    "GET /health_generate": "Probe",
    "GET /v1/models": "ModelList",
    "GET /v1/models/{model}": "ModelCard",
    "GET /model_info": "ModelInfo",
    "GET /server_info": "ServerInfo",
    "GET /v1/loads": "Loads",
    "GET /get_load": "LoadList",
    "POST /v1/chat/completions": "ChatCompletion",
    "POST /v1/completions": "Completion",
    "POST /v1/responses": "Response",
    "POST /v1/responses/input_tokens": "InputTokens",
    "GET /v1/responses/{response_id}": "Response",
    "DELETE /v1/responses/{response_id}": "Deleted",
    "POST /v1/responses/{response_id}/cancel": "Response",
    "GET /v1/responses/{response_id}/input_items": "ItemList",
    "POST /v1/conversations": "Conversation",
    "GET /v1/conversations/{conversation_id}": "Conversation",
    "POST /v1/conversations/{conversation_id}": "Conversation",
    "DELETE /v1/conversations/{conversation_id}": "Deleted",
    "GET /v1/conversations/{conversation_id}/items": "ItemList",
    "POST /v1/conversations/{conversation_id}/items": "ItemList",
    "GET /v1/conversations/{conversation_id}/items/{item_id}": "Item",
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": "Conversation",
    "POST /v1/messages": "Message",
    "POST /v1/messages/count_tokens": "MessageTokens",
    "POST /v1/embeddings": "EmbeddingList",
    "POST /tokenize": "Tokens",
    "POST /v1/tokenize": "Tokens",
    "POST /detokenize": "Detokenized",
    "POST /v1/detokenize": "Detokenized",
    "POST /v1/tokens": "TokenCount",
    "POST /generate": "GeneratedList",
    "GET /v1/files": "FileList",
    "POST /v1/files": "File",
    "GET /v1/files/{file_id}": "File",
    "DELETE /v1/files/{file_id}": "Deleted",
    "POST /flush_cache": "Done",
    "POST /abort_request": "Aborted",
    "POST /start_profile": "Done",
    "POST /stop_profile": "Done",
    "POST /v1/load_lora_adapter": "Done",
    "POST /v1/unload_lora_adapter": "Done",
    "POST /sleep": "Done",
    "POST /wake_up": "Done",
    "GET /is_sleeping": "Sleeping",
}
FRAMES = {
    "POST /v1/chat/completions": "ChatCompletionChunk",
    "POST /v1/completions": "Completion",
    "POST /v1/responses": "ResponseEvent",
    "GET /v1/responses/{response_id}": "ResponseEvent",
    "POST /v1/messages": "MessageEvent",
    "POST /generate": "Generated",
}
"""The schema of one event's data, of routes that stream."""
MAY_BE_503 = frozenset({"GET /health", "GET /livez", "GET /readyz", "GET /ping"})
"""With the same body."""
