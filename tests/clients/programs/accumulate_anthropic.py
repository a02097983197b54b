"""The Anthropic SDK's accumulator over the answers of a file; one object for each."""

import json
import os
from pathlib import Path

import anthropic

client = anthropic.Anthropic(base_url=os.environ["BASE_URL"], api_key="none", max_retries=0)


def messages(case: dict) -> dict:
    tools = [
        {"name": name, "input_schema": parameters} for name, parameters in case["tools"].items()
    ]
    if case["custom"]:
        text = {"type": "object", "properties": {"input": {"type": "string"}}}
        tools.append({"name": case["custom"], "input_schema": text})
    asked = {
        "model": case["model"],
        "max_tokens": 20_000,
        "messages": [{"role": "user", "content": case["prompt"]}],
        **({"tools": tools} if tools else {}),
        **({"thinking": {"type": "enabled", "budget_tokens": 10_000}} if case["thinks"] else {}),
    }
    with client.messages.stream(**asked) as stream:
        deltas = "".join(stream.text_stream)
        message = stream.get_final_message()
    made = {"end": message.stop_reason, "text": "", "thinking": "", "calls": []}
    for block in message.content:
        if block.type == "text":
            made["text"] += block.text
        elif block.type == "thinking":
            made["thinking"] += block.thinking
        else:
            made["calls"].append([block.name, block.input])
    assert deltas == made["text"]
    return made


def tried(case: dict) -> dict:
    try:
        return {"seed": case["seed"], **messages(case)}
    except Exception as error:
        status = getattr(error, "status_code", None)
        return {"seed": case["seed"], "error": [type(error).__name__, status], "said": str(error)}


cases = json.loads(Path(os.environ["CASES"]).read_text())
print(json.dumps({"messages": [tried(case) for case in cases]}))
