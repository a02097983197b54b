// The request of an answer, as the API takes it, and as curl and Python to copy.

export const MOST_STORED = 1_500_000; // characters of the conversation in the tab's storage

export function body(messages, options, model, streams = true) {
  const made = { model, messages: wire(messages, options.system) };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    const value = options[name];
    if (value !== "" && value !== undefined && Number.isFinite(Number(value))) made[name] = Number(value);
  }
  const tools = parseTools(options.tools).tools;
  if (tools) made.tools = tools;
  if (streams) Object.assign(made, { stream: true, stream_options: { include_usage: true } });
  return made;
}

export function parseTools(text) {
  if (!text?.trim()) return {};
  try {
    const tools = JSON.parse(text);
    return Array.isArray(tools) && tools.length ? { tools } : { fault: "Tools: a list of tools is needed." };
  } catch {
    return { fault: "Tools: this is no JSON yet, and is left out." };
  }
}

function wire(messages, system) {
  const made = system?.trim() ? [{ role: "system", content: system }] : [];
  for (const [no, each] of messages.entries()) {
    // Calls without results would be refused: the user has gone on without them.
    const called = each.calls?.length && messages[no + 1]?.role === "tool";
    if (each.role === "user") made.push({ role: "user", content: content(each) });
    else if (each.role === "tool") made.push({ role: "tool", tool_call_id: each.id, content: each.content });
    else if (called) made.push({ role: "assistant", content: each.content || null, tool_calls: each.calls.map(call) });
    else if (each.content) made.push({ role: "assistant", content: each.content });
  }
  return made;
}

function content(message) {
  if (!message.pictures?.length) return message.content;
  const pictures = message.pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  return [...pictures, { type: "text", text: message.content }];
}

const call = ({ id, name, args }) => ({ id, type: "function", function: { name, arguments: args } });

const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function asCurl(request, base, wantsKey) {
  const lines = [`curl -N ${shell(`${base}v1/chat/completions`)}`, "-H 'content-type: application/json'"];
  if (wantsKey) lines.push('-H "authorization: Bearer $API_KEY"');
  lines.push(`-d ${shell(JSON.stringify(request, null, 2))}`);
  return lines.join(" \\\n  ");
}

export function asPython(request, base, wantsKey) {
  const { stream, stream_options: _, ...rest } = request;
  const fields = Object.entries(rest).map(([name, value]) => `    ${name}=${python(value, 1)},\n`).join("");
  const key = wantsKey ? 'os.environ["API_KEY"]' : '"none"';
  return `${wantsKey ? "import os\n\n" : ""}import openai

client = openai.OpenAI(base_url=${python(`${base}v1`)}, api_key=${key})
answer = client.chat.completions.create(
${fields}    stream=True,
)
for chunk in answer:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
`;
}

// A value of JSON as Python writes it.
function python(value, depth = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  // A string of JSON is one of Python's but for characters outside of the first plane, which
  // JavaScript leaves as they are: so does Python.
  if (typeof value !== "object") return JSON.stringify(value);
  const inside = "    ".repeat(depth + 1);
  const after = `\n${"    ".repeat(depth)}`;
  const entries = Array.isArray(value)
    ? value.map((each) => python(each, depth + 1))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const line = `${open}${entries.join(", ")}${close}`;
  if (!entries.length || line.length < 72 && !line.includes("\n")) return line;
  return `${open}\n${entries.map((each) => `${inside}${each},`).join("\n")}${after}${close}`;
}
