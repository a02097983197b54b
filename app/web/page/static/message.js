// One message of the conversation on the screen. An assistant's grows while it streams.

import { button, codeBlock, copyButton, element } from "./dom.js";
import { Markdown } from "./markdown.js";

const DRAW_MS = 60;
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export class MessageView {
  // `on`: edit(view), retry(view), request(view), results(view, texts)
  constructor(message, name, on) {
    this.message = message;
    this.on = on;
    this.waiting = { content: "", reasoning: "" };
    this.body = element("div", { class: "body", dir: "auto" });
    this.actions = element("div", { class: "actions" });
    this.foot = element("p", { class: "foot small" });
    this.root = element(
      "article",
      { class: `message ${message.role}`, "aria-label": `${name} says` },
      element("div", { class: "name" }, name),
    );
    if (message.role === "assistant") this.assistant();
    else this.person();
  }

  person() {
    const { message } = this;
    if (message.pictures?.length) {
      const pictures = message.pictures.map((src, no) => element("img", { src, alt: `Picture ${no + 1} of this message` }));
      this.root.append(element("div", { class: "pictures" }, ...pictures));
    }
    this.body.append(message.content);
    this.root.append(this.body, this.actions);
    if (message.role === "user") this.actions.append(button("Edit", () => this.on.edit(this), { class: "turn" }));
    this.actions.append(copyButton(() => message.content));
  }

  assistant() {
    const { message } = this;
    this.text = new Markdown(this.body);
    this.thought = element("div", { class: "body thought", dir: "auto" });
    this.thinking = new Markdown(this.thought);
    this.summary = element("summary", {}, "Thinking");
    this.fold = element("details", { class: "fold", hidden: true }, this.summary, this.thought);
    this.calls = element("div", { class: "calls" });
    this.fault = element("p", { class: "fault", role: "alert", hidden: true });
    this.root.append(this.fold, this.body, this.calls, this.fault, this.foot, this.actions);
    this.add({ content: message.content || "", reasoning: message.reasoning || "" });
  }

  add({ content = "", reasoning = "" }) {
    this.waiting.content += content;
    this.waiting.reasoning += reasoning;
    // Not requestAnimationFrame: it stands still in a tab that is hidden.
    if (!this.timer) this.timer = setTimeout(() => this.draw(), DRAW_MS);
  }

  draw() {
    clearTimeout(this.timer);
    this.timer = null;
    const { content, reasoning } = this.waiting;
    this.waiting = { content: "", reasoning: "" };
    if (reasoning) {
      this.fold.hidden = false;
      this.thinking.append(reasoning);
    }
    if (content) this.text.append(content);
    if (content || reasoning) this.drawn?.();
  }

  finish() {
    this.draw();
    this.text.finish();
    this.thinking.finish();
    const { message } = this;
    this.root.classList.remove("streaming");
    this.summary.textContent = message.thoughtS ? `Thought for ${number.format(message.thoughtS)} s` : "Thought";
    this.calls.replaceChildren(...(message.calls ?? []).map((each) => callView(each)));
    this.fault.hidden = !message.fault;
    this.fault.textContent = message.fault ?? "";
    this.foot.textContent = figures(message);
    this.actions.replaceChildren(
      button("Try again", () => this.on.retry(this), { class: "turn" }),
      copyButton(() => message.content || ""),
      button("Its request", () => this.on.request(this)),
    );
  }

  // Fields for what the called tools have answered; the conversation goes on with them. They stay
  // until `results` returns true.
  askForResults() {
    const fields = this.message.calls.map((each) => element("textarea", { rows: "2", "aria-label": `Result of ${each.name}` }));
    const form = element(
      "form",
      { class: "results" },
      ...fields.map((field, no) => element("label", {}, `Result of ${this.message.calls[no].name}`, field)),
      element("button", { class: "primary" }, "Send results"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.on.results(this, fields.map((field) => field.value))) form.remove();
    });
    this.calls.append(form);
  }

  // In place of the text a field with it; `done` gets the new text, or null. If it returns false, the
  // field stays: the text cannot be sent now.
  edit(done) {
    const field = element("textarea", { rows: "3", "aria-label": "Message" });
    field.value = this.message.content;
    const form = element(
      "form",
      { class: "edit" },
      field,
      element("div", { class: "row" }, element("button", { class: "primary" }, "Send"), button("Cancel", () => end(null))),
    );
    const end = (text) => {
      if (done(text) === false) return;
      form.replaceWith(this.body);
      this.actions.hidden = false;
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) end(field.value);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end(null);
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.body.replaceWith(form);
    this.actions.hidden = true;
    field.focus();
  }
}

function callView({ name, args }) {
  const { block } = codeBlock(pretty(args), name);
  block.setAttribute("aria-label", `Call of ${name}`);
  block.setAttribute("role", "group");
  return block;
}

const MOST_NESTING = 50;

// Each level indents every line within it: what nests deeply would be a thousand times as long.
function pretty(args) {
  if (args.length > 100_000) return args;
  try {
    const value = JSON.parse(args);
    return nesting(args) > MOST_NESTING ? args : JSON.stringify(value, null, 2);
  } catch {
    return args;
  }
}

// How many levels valid JSON has.
function nesting(json) {
  let deepest = 0;
  let depth = 0;
  for (const mark of json.replace(/"(?:[^"\\]|\\.)*"/g, "")) {
    if (mark === "[" || mark === "{") deepest = Math.max(deepest, (depth += 1));
    else if (mark === "]" || mark === "}") depth -= 1;
  }
  return deepest;
}

const ENDS = { length: "cut at the most tokens", content_filter: "filtered" };

function figures({ usage, ttftS, seconds, finish, stopped }) {
  const parts = [];
  if (stopped) parts.push("stopped");
  if (usage) parts.push(`${number.format(usage.completion_tokens)} tokens`);
  if (usage && seconds > ttftS && usage.completion_tokens > 1)
    parts.push(`${number.format((usage.completion_tokens - 1) / (seconds - ttftS))} tokens/s`);
  if (ttftS) parts.push(`first token after ${ttftS < 1 ? `${Math.round(ttftS * 1e3)} ms` : `${number.format(ttftS)} s`}`);
  if (usage?.prompt_tokens_details?.cached_tokens) parts.push(`${number.format(usage.prompt_tokens_details.cached_tokens)} of ${number.format(usage.prompt_tokens)} prompt tokens cached`);
  if (ENDS[finish]) parts.push(ENDS[finish]);
  return parts.join(" · ");
}
