// The Anthropic SDK's accumulator over the answers of a file; one object for each.
import { readFileSync } from 'node:fs';
import assert from 'node:assert';
import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: 'none', maxRetries: 0 });
const text = { type: 'object', properties: { input: { type: 'string' } } };

async function messages({ prompt, thinks, tools, custom, model }) {
  const offered = Object.entries(tools).map(([name, input_schema]) => ({ name, input_schema }));
  if (custom) offered.push({ name: custom, input_schema: text });
  const stream = client.messages.stream({
    model,
    max_tokens: 20_000,
    messages: [{ role: 'user', content: prompt }],
    ...(offered.length && { tools: offered }),
    ...(thinks && { thinking: { type: 'enabled', budget_tokens: 10_000 } }),
  });
  let deltas = '';
  stream.on('text', (delta) => (deltas += delta));
  const message = await stream.finalMessage();
  const made = { end: message.stop_reason, text: '', thinking: '', calls: [] };
  for (const block of message.content) {
    if (block.type === 'text') made.text += block.text;
    else if (block.type === 'thinking') made.thinking += block.thinking;
    else made.calls.push([block.name, block.input]);
  }
  assert.equal(deltas, made.text);
  return made;
}

async function tried(one) {
  try {
    return { seed: one.seed, ...(await messages(one)) };
  } catch (error) {
    const name = error.constructor.name;
    return { seed: one.seed, error: [name, error.status ?? null], said: String(error) };
  }
}

const made = [];
for (const one of JSON.parse(readFileSync(process.env.CASES))) made.push(await tried(one));
console.log(JSON.stringify({ messages: made }));
