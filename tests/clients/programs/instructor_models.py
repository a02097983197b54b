"""instructor: models from calls of tools, from JSON schemas, in pieces, and from responses."""

import json
import os
from importlib.metadata import version

import instructor
import openai
from pydantic import BaseModel

client = openai.OpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key="none")
asked = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}


class Place(BaseModel):
    city: str


tools = instructor.from_openai(client)
schema = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
responses = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS)

place, answer = tools.create_with_completion(response_model=Place, **asked)
(call,) = answer.choices[0].message.tool_calls
*_, last = tools.create_partial(response_model=Place, **asked)
print(
    json.dumps(
        {
            "version": version("instructor"),
            "chat": schema.create(response_model=Place, **asked).model_dump(),
            "stream": last.model_dump(),
            "call": [call.function.name, place.model_dump()],
            "response": responses.create(response_model=Place, **asked).model_dump(),
        }
    )
)
