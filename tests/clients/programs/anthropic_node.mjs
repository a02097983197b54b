// The Anthropic SDK for TypeScript: messages.
import Anthropic from '@anthropic-ai/sdk';
import { VERSION } from '@anthropic-ai/sdk/version';

const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: 'none' });
const asked = {
  model: 'scripted',
  max_tokens: 100,
  messages: [{ role: 'user', content: 'hello' }],
};
const input_schema = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
};

const answer = await client.messages.create(asked);
let streamed = '';
await client.messages
  .stream(asked)
  .on('text', (delta) => (streamed += delta))
  .finalMessage();
const called = await client.messages.create({
  ...asked,
  tools: [{ name: 'get_weather', input_schema }],
  tool_choice: { type: 'any' },
});
const [block] = called.content;

console.log(
  JSON.stringify({
    version: VERSION,
    chat: answer.content[0].text,
    stream: streamed,
    call: [block.name, block.input],
  }),
);
