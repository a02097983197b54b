// The OpenAI SDK's accumulators over the answers of a file; one object for each, both APIs.
import { readFileSync } from 'node:fs';
import assert from 'node:assert';
import OpenAI from 'openai';

const client = new OpenAI({
  baseURL: process.env.BASE_URL + '/v1',
  apiKey: 'none',
  maxRetries: 0,
});

async function chat({ prompt, tools, custom, model }) {
  const offered = Object.entries(tools).map(([name, parameters]) => ({
    type: 'function',
    function: { name, parameters },
  }));
  if (custom) offered.push({ type: 'custom', custom: { name: custom } });
  const stream = client.chat.completions.stream({
    model,
    messages: [{ role: 'user', content: prompt }],
    ...(offered.length && { tools: offered }),
  });
  let deltas = '';
  let thinking = '';
  stream.on('content', (delta) => (deltas += delta));
  stream.on('chunk', (chunk) => {
    thinking += chunk.choices[0]?.delta.reasoning_content ?? '';
  });
  const [{ finish_reason, message }] = (await stream.finalChatCompletion()).choices;
  assert.equal(deltas, message.content ?? '');
  return {
    end: finish_reason,
    text: message.content ?? '',
    thinking,
    calls: (message.tool_calls ?? []).map((call) =>
      call.type === 'function'
        ? [call.function.name, call.function.arguments]
        : [call.custom.name, call.custom.input],
    ),
  };
}

async function responses({ seed, prompt, tools, custom, model }) {
  const offered = Object.entries(tools).map(([name, parameters]) => ({
    type: 'function',
    name,
    parameters,
    strict: false,
  }));
  if (custom) offered.push({ type: 'custom', name: custom });
  const stream = client.responses.stream({
    model,
    input: prompt,
    ...(offered.length && { tools: offered }),
    ...(seed % 2 && { reasoning: { summary: 'auto' } }),
  });
  let deltas = '';
  let last;
  for await (const event of stream) {
    if (event.type === 'response.output_text.delta') deltas += event.delta;
    last = event;
  }
  const made = { end: last.type, text: '', thinking: '', calls: [] };
  for (const item of last.response.output) {
    if (item.type === 'message') {
      made.text += item.content.map((part) => part.text).join('');
    } else if (item.type === 'reasoning') {
      made.thinking += [...(item.content ?? []), ...item.summary].map((part) => part.text).join('');
    } else if (item.status === 'completed') {
      made.calls.push([item.name, item.type === 'function_call' ? item.arguments : item.input]);
    }
  }
  if (last.type === 'response.failed') return { error: [last.type, last.response.error.code] };
  assert.equal(deltas, made.text);
  return made;
}

async function tried(ask, one) {
  try {
    return { seed: one.seed, ...(await ask(one)) };
  } catch (error) {
    const name = error.constructor.name;
    return { seed: one.seed, error: [name, error.status ?? null], said: String(error) };
  }
}

const made = { chat: [], responses: [] };
for (const one of JSON.parse(readFileSync(process.env.CASES))) {
  made.chat.push(await tried(chat, one));
  made.responses.push(await tried(responses, one));
}
console.log(JSON.stringify(made));
