// The AI SDK with its providers for OpenAI (chat and responses), for servers like it, and Anthropic.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { generateText, jsonSchema, streamText, tool } from 'ai';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';

const installed = createRequire(import.meta.url);
const version = (name) =>
  JSON.parse(readFileSync(installed.resolve(name + '/package.json'))).version;
const settings = { baseURL: process.env.BASE_URL + '/v1', apiKey: 'none' };
const openai = createOpenAI(settings);
const tools = {
  get_weather: tool({
    inputSchema: jsonSchema({
      type: 'object',
      properties: { city: { type: 'string' } },
      required: ['city'],
    }),
  }),
};

async function tried(prefix, model) {
  const answer = await generateText({ model, prompt: 'hello' });
  let streamed = '';
  for await (const piece of streamText({ model, prompt: 'hello' }).textStream) streamed += piece;
  const called = await generateText({ model, prompt: 'hello', tools, toolChoice: 'required' });
  const [call] = called.toolCalls;
  return {
    [prefix + 'chat']: answer.text,
    [prefix + 'stream']: streamed,
    [prefix + 'call']: [call.toolName, call.input],
  };
}

console.log(
  JSON.stringify({
    version: version('ai'),
    ...(await tried('', openai.chat('scripted'))),
    ...(await tried('response ', openai.responses('scripted'))),
    ...(await tried('compatible ', createOpenAICompatible({ name: 'local', ...settings })('scripted'))),
    ...(await tried('anthropic ', createAnthropic(settings)('scripted'))),
  }),
);
