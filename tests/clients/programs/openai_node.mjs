// The OpenAI SDK for Node: chat completions and responses.
import OpenAI from 'openai';
import { VERSION } from 'openai/version';

const client = new OpenAI({ baseURL: process.env.BASE_URL + '/v1', apiKey: 'none' });
const model = 'scripted';
const messages = [{ role: 'user', content: 'hello' }];
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
};

const answer = await client.chat.completions.create({ model, messages });
let streamed = '';
const stream = client.chat.completions.stream({ model, messages });
stream.on('content', (delta) => (streamed += delta));
await stream.done();
const called = await client.chat.completions.create({
  model,
  messages,
  tools: [{ type: 'function', function: { name: 'get_weather', parameters } }],
  tool_choice: 'required',
});
const [call] = called.choices[0].message.tool_calls;

const response = await client.responses.create({ model, input: 'hello' });
let pieces = '';
for await (const event of client.responses.stream({ model, input: 'hello' })) {
  if (event.type === 'response.output_text.delta') pieces += event.delta;
}
const requested = await client.responses.create({
  model,
  input: 'hello',
  tools: [{ type: 'function', name: 'get_weather', parameters, strict: true }],
  tool_choice: 'required',
});
const [item] = requested.output;

console.log(
  JSON.stringify({
    version: VERSION,
    chat: answer.choices[0].message.content,
    stream: streamed,
    call: [call.function.name, JSON.parse(call.function.arguments)],
    response: response.output_text,
    'response stream': pieces,
    'response call': [item.name, JSON.parse(item.arguments)],
  }),
);
