// LangChain for JavaScript: ChatOpenAI on chat completions and on responses. The tool is named,
// because on responses it drops a `tool_choice` of 'required'.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';

const installed = createRequire(import.meta.url);
const { version } = JSON.parse(readFileSync(installed.resolve('@langchain/openai/package.json')));
const weather = tool(({ city }) => `sunny in ${city}`, {
  name: 'get_weather',
  description: 'The forecast for a city.',
  schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
});

async function tried(prefix, options) {
  const model = new ChatOpenAI({
    model: 'scripted',
    apiKey: 'none',
    configuration: { baseURL: process.env.BASE_URL + '/v1' },
    ...options,
  });
  let streamed = '';
  for await (const chunk of await model.stream('hello')) streamed += chunk.text;
  const called = await model.bindTools([weather], { tool_choice: 'get_weather' }).invoke('hello');
  const [call] = called.tool_calls;
  return {
    [prefix + 'chat']: (await model.invoke('hello')).text,
    [prefix + 'stream']: streamed,
    [prefix + 'call']: [call.name, call.args],
  };
}

console.log(
  JSON.stringify({
    version,
    ...(await tried('', {})),
    ...(await tried('response ', { useResponsesApi: true })),
  }),
);
