// The AI SDK's streamText over the answers of a file; one object for each and each provider.
import { readFileSync } from 'node:fs';
import assert from 'node:assert';
import { jsonSchema, streamText, tool } from 'ai';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';

const settings = { baseURL: process.env.BASE_URL + '/v1', apiKey: 'none' };
const openai = createOpenAI(settings);
const anthropic = createAnthropic(settings);
const text = { type: 'object', properties: { input: { type: 'string' } } };

const responses = (name) => openai.responses(name);
responses.custom = () => openai.tools.customTool({});
// A model that the SDK does not know thinks only if it is told so.
responses.options = ({ seed }) => ({
  openai: { forceReasoning: true, ...(seed % 2 && { reasoningSummary: 'auto' }) },
});

const messages = (name) => anthropic(name);
messages.custom = () => tool({ inputSchema: jsonSchema(text) });
messages.options = ({ thinks }) => ({
  anthropic: thinks ? { thinking: { type: 'enabled', budgetTokens: 10_000 } } : {},
});

async function streamed(api, one) {
  const { prompt, tools, custom, model } = one;
  const offered = {};
  for (const [name, schema] of Object.entries(tools)) {
    offered[name] = tool({ inputSchema: jsonSchema(schema) });
  }
  if (custom) offered[custom] = api.custom();
  const result = streamText({
    model: api(model),
    prompt,
    maxOutputTokens: 20_000,
    tools: offered,
    providerOptions: api.options(one),
    maxRetries: 0,
    onError: () => {}, // it prints the error otherwise; the stream has it as a part
  });
  const made = { end: null, text: '', thinking: '', calls: [] };
  for await (const part of result.fullStream) {
    if (part.type === 'text-delta') made.text += part.text;
    else if (part.type === 'reasoning-delta') made.thinking += part.text;
    else if (part.type === 'tool-call') made.calls.push([part.toolName, part.input]);
    else if (part.type === 'finish') made.end = part.finishReason;
    else if (part.type === 'error') {
      const { error } = part;
      made.error = [error?.constructor?.name, error?.statusCode ?? error?.code ?? error?.error?.type ?? error?.type ?? null];
      made.said = error instanceof Error ? String(error) : JSON.stringify(error);
    }
  }
  if (!made.error) assert.equal(await result.text, made.text);
  return made;
}

async function tried(api, one) {
  try {
    return { seed: one.seed, ...(await streamed(api, one)) };
  } catch (error) {
    return { seed: one.seed, error: ['thrown', error.constructor.name], said: String(error) };
  }
}

const made = { responses: [], messages: [] };
for (const one of JSON.parse(readFileSync(process.env.CASES))) {
  made.responses.push(await tried(responses, one));
  made.messages.push(await tried(messages, one));
}
console.log(JSON.stringify(made));
