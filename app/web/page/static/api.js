// The server, as the page asks it. Addresses are relative: the page may lie below a proxy's path.

import { storage } from "./storage.js";

const KEY = "serve-key";

export const key = {
  get: () => storage.getItem(KEY) || "",
  set: (value) => (value ? storage.setItem(KEY, value) : storage.removeItem(KEY)),
};

// The first character that no header can have, such as one without width that was copied along.
export const unsendable = (text) => /[^\t\x20-\x7e\x80-\xff]/u.exec(text)?.[0];

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// No answer, or no more of it.
export class Unreachable extends Error {}

export async function ask(path, { body, signal } = {}) {
  const headers = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  if (body) headers["content-type"] = "application/json";
  // Made before it is sent: what is wrong with it is no fault of the connection.
  const request = new Request(path, {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "same-origin",
  });
  const response = await fetch(request).catch(() => {
    throw new Unreachable("The server does not answer.");
  });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status } = response;
  try {
    const { error } = await response.json();
    if (typeof error.message === "string") return new Refused(status, error.message);
  } catch {
    // A proxy's answer: it has its status only.
  }
  const stands = `The server answered with status ${status}.`;
  return [502, 503, 504].includes(status) ? new Unreachable(stands) : new Refused(status, stands);
}

// Server-sent events as [name, data]; a comment is ["", null], a sign of life.
export async function* serverSentEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let name = "message";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(() => {
        throw new Unreachable("The connection to the server was lost.");
      });
      if (done) return;
      const text = rest + value;
      let from = 0;
      for (let end; (end = text.indexOf("\n", from)) >= 0; from = end + 1) {
        const line = text.slice(from, text[end - 1] === "\r" ? end - 1 : end);
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith(":")) yield ["", null];
        else if (line === "" && data.length) {
          yield [name, data.join("\n")];
          [name, data] = ["message", []];
        }
      }
      rest = text.slice(from);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const SILENT_MS = 10_000;
const HIDDEN_MS = 30_000;
const LONGEST_WAIT_MS = 10_000;

// Watches the server for as long as the page is looked at, through restarts of the server.
// `on`: about, past, sample (of the server), lost(message, { answered }), refused() (a key is needed or wrong).
export class Watch {
  constructor(on) {
    this.on = on;
    this.running = false;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.hidden);
      if (document.hidden) this.hidden = setTimeout(() => this.stop(), HIDDEN_MS);
      else if (!this.refused) this.start();
    });
    addEventListener("online", () => this.wake?.());
  }

  stop() {
    this.running = false;
    this.abort?.abort();
    this.wake?.();
  }

  async start() {
    if (this.running) return;
    this.running = true;
    this.refused = false;
    for (let wait = 500; this.running; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
      try {
        await this.once(() => (wait = 500));
        this.on.lost("The server is going away.", { answered: false });
      } catch (error) {
        if (!this.running) return;
        if (error instanceof Refused && error.status === 401) {
          this.running = false;
          this.refused = true; // until the user has another key
          this.on.refused();
          return;
        }
        const answered = !(error instanceof Unreachable);
        this.on.lost(answered ? error.message : "The server does not answer.", { answered });
        if (answered && !(error instanceof Refused)) console.error(error);
      }
      if (this.running) await this.sleep(wait * (0.75 + Math.random() / 2));
    }
  }

  sleep(ms) {
    return new Promise((resolve) => {
      this.wake = resolve;
      setTimeout(resolve, ms);
    });
  }

  async once(arrived) {
    this.abort = new AbortController();
    let silent;
    const alive = () => {
      clearTimeout(silent);
      silent = setTimeout(() => this.abort.abort(), SILENT_MS);
    };
    alive();
    try {
      const response = await ask("ui/events", { signal: this.abort.signal });
      for await (const [name, data] of serverSentEvents(response)) {
        alive();
        if (data !== null) this.on[name]?.(JSON.parse(data));
        arrived();
      }
    } finally {
      clearTimeout(silent);
    }
  }
}
