"""The OpenAI SDK's accumulators over the answers of a file; one object for each, both APIs."""

import json
import os
from pathlib import Path

import openai

client = openai.OpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key="none", max_retries=0)


def chat(case: dict) -> dict:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": parameters}}
        for name, parameters in case["tools"].items()
    ]
    if case["custom"]:
        tools.append({"type": "custom", "custom": {"name": case["custom"]}})
    asked = {
        "model": case["model"],
        "messages": [{"role": "user", "content": case["prompt"]}],
        **({"tools": tools} if tools else {}),
    }
    deltas = ""
    try:
        with client.chat.completions.stream(**asked) as stream:
            for event in stream:
                if event.type == "content.delta":
                    deltas += event.delta
            choice = stream.get_final_completion().choices[0]
    except openai.LengthFinishReasonError as error:  # how it says that the limit was reached
        choice = error.completion.choices[0]
    assert deltas == (choice.message.content or "")
    return {
        "end": choice.finish_reason,
        "text": choice.message.content or "",
        "thinking": getattr(choice.message, "reasoning_content", None) or "",
        "calls": [
            [call.function.name, call.function.arguments]
            if call.type == "function"
            else [call.custom.name, call.custom.input]
            for call in choice.message.tool_calls or ()
        ],
    }


def responses(case: dict) -> dict:
    tools = [
        {"type": "function", "name": name, "parameters": parameters, "strict": False}
        for name, parameters in case["tools"].items()
    ]
    if case["custom"]:
        tools.append({"type": "custom", "name": case["custom"]})
    asked = {
        "model": case["model"],
        "input": case["prompt"],
        **({"tools": tools} if tools else {}),
        **({"reasoning": {"summary": "auto"}} if case["seed"] % 2 else {}),
    }
    deltas = ""
    with client.responses.stream(**asked) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                deltas += event.delta
        last = event.response
    made = {"end": event.type, "text": "", "thinking": "", "calls": []}
    for item in last.output:
        if item.type == "message":
            made["text"] += "".join(part.text for part in item.content)
        elif item.type == "reasoning":
            made["thinking"] += "".join(
                part.text for part in [*(item.content or ()), *(item.summary or ())]
            )
        elif item.status == "completed":
            sent = item.arguments if item.type == "function_call" else item.input
            made["calls"].append([item.name, sent])
    if event.type == "response.failed":
        return {"error": [event.type, last.error.code]}
    assert deltas == made["text"]
    return made


def tried(ask, case: dict) -> dict:
    try:
        return {"seed": case["seed"], **ask(case)}
    except Exception as error:
        status = getattr(error, "status_code", None)
        return {"seed": case["seed"], "error": [type(error).__name__, status], "said": str(error)}


cases = json.loads(Path(os.environ["CASES"]).read_text())
print(
    json.dumps(
        {
            "chat": [tried(chat, case) for case in cases],
            "responses": [tried(responses, case) for case in cases],
        }
    )
)
