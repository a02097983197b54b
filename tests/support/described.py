"""Bodies made from the description of the API, most of them wrong somewhere."""

from __future__ import annotations

import random
from typing import Any

SHORT = {"max_tokens": 2, "max_completion_tokens": 2, "max_new_tokens": 2, "max_output_tokens": 2}
"""Upper bounds for these fields, so that valid requests do not take long."""

STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 20, 0.5, 1.0, -0.0, 1e308, 2**31, 2**63, -(2**63), 2**70, "",
    "a", "0", "\0", "🌦️", "x" * 5000, "<|im_end|>", "../../etc/passwd", "{{ 7 * 7 }}", "(a+)+$", [],
    {}, [[]], [None], [0], [-1], [49151], [49152], [1.5], ["a"], [{}], {"a": 1}, {"type": "object"},
    {"type": "text"}, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "auto",
    {"$ref": "#"}, {"0": 100}, {"49152": 1}, {"1": 1e39}, [[1], [2]], "required", "none",
]  # fmt: skip
TEXTS = ["hi", "", "🌦️ Łódź", "a b c", "get_weather", "user", "function", "<|im_start|>user", "\\"]


class Generator:
    """Values that follow a JSON schema, and now and then values that do not."""

    def __init__(self, document: dict[str, Any], chance: random.Random) -> None:
        self._schemas = document["components"]["schemas"]
        self._chance = chance

    def body(self, schema: dict[str, Any], example: dict[str, Any]) -> Any:
        if self._chance.random() < 0.02:
            return self._chance.choice(STRANGE)
        made = self._object(self._resolved(schema), 0.12)
        body = {**example, **made}
        for name in list(body):
            if self._chance.random() < 0.02:
                del body[name]
        # Without it, the answer could go on to the end of the context.
        if "prompt" in example or "messages" in example:
            body["max_tokens"] = body.get("max_tokens") or 2
        if "input" in example:
            body["max_output_tokens"] = body.get("max_output_tokens") or 2
        if "text" in example and not isinstance(body.get("sampling_params"), list):
            body["sampling_params"] = body.get("sampling_params") or {"max_new_tokens": 2}
        return _shortened(body)

    def value(self, schema: dict[str, Any], depth: int = 0) -> Any:
        chance = self._chance
        if chance.random() < 0.12 or depth > 6:
            return chance.choice(STRANGE)
        schema = self._resolved(schema)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self.value(chance.choice(schema[word]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return chance.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._object(schema, 0.5, depth)
            case "array":
                items = schema.get("items", {})
                return [self.value(items, depth + 1) for _ in range(chance.choice([0, 1, 1, 2, 3]))]
            case "integer":
                low, high = schema.get("minimum", -3), schema.get("maximum", 70)
                return chance.choice([low, high, low - 1, high + 1, chance.randint(0, 9)])
            case "number":
                low, high = schema.get("minimum", -3), schema.get("maximum", 3)
                return chance.choice([low, high, high * 1.01, chance.uniform(low, high)])
            case "boolean":
                return chance.random() < 0.5
            case "null":
                return None
            case "string":
                return chance.choice(TEXTS)
        return chance.choice(STRANGE)

    def _object(self, schema: dict[str, Any], often: float, depth: int = 0) -> dict[str, Any]:
        required = schema.get("required", ())
        made = {
            name: self.value(each, depth + 1)
            for name, each in schema.get("properties", {}).items()
            if self._chance.random() < (0.9 if name in required else often)
        }
        if self._chance.random() < 0.03:
            made[self._chance.choice(["rid", "lora_path", "extra", "custom_logit_processor"])] = (
                self._chance.choice(STRANGE)
            )
        return made

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rsplit("/", 1)[1]]
        return schema


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: SHORT[key] if key in SHORT and isinstance(each, int | None) else _shortened(each)
            for key, each in value.items()
        }
    return [_shortened(each) for each in value] if isinstance(value, list) else value
