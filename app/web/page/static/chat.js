// The conversation: what is sent, what comes back, and what survives a reload of the tab.

import { ask, key, serverSentEvents } from "./api.js";
import { $, button, codeBlock, element } from "./dom.js";
import { MessageView } from "./message.js";
import { MOST_STORED, asCurl, asPython, body, parseTools } from "./request.js";
import { storage } from "./storage.js";

const STORED = "serve-chat";
const SAVE_MS = 1500;
const MOST_PICTURES = 4;
const PICTURE_SIDE = 1280;
const STARTERS = ["What can you do?", "Write a haiku about a server that starts fast.", "A table of three prime numbers and their squares."];

const LOST = "No connection to the server";

export class Chat {
  constructor() {
    this.messages = [];
    this.views = [];
    this.pictures = [];
    this.about = null;
    this.answering = null; // an AbortController
    $("options").open = innerWidth >= 1200;
    this.bind();
    this.restore();
  }

  bind() {
    const text = $("text");
    $("ask").addEventListener("submit", (event) => (event.preventDefault(), this.send()));
    text.addEventListener("input", () => this.fit());
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.answering) this.stop();
    });
    $("stop").addEventListener("click", () => this.stop());
    $("new-chat").addEventListener("click", () => this.clear());
    $("show-request").addEventListener("click", () => this.showDrafted());
    $("close-request").addEventListener("click", () => $("request").close());
    $("sampling").addEventListener("input", () => this.optionsChanged());
    $("sampling").addEventListener("submit", (event) => event.preventDefault());
    $("file").addEventListener("change", () => (this.attach($("file").files), ($("file").value = "")));
    text.addEventListener("paste", (event) => this.attach(event.clipboardData?.files ?? []));
    addEventListener("pagehide", () => (this.stop(), this.save()));
    $("starters").append(...STARTERS.map((each) => button(each, () => ((text.value = each), this.send()))));
  }

  get options() {
    return Object.fromEntries(new FormData($("sampling")));
  }

  optionsChanged() {
    $("tools-fault").textContent = parseTools(this.options.tools).fault ?? "";
    this.save();
  }

  // What the server is: `about` of its events.
  serverIs(about, phase) {
    this.about = about;
    const { model, names } = about;
    $("attach").hidden = !model?.pictures;
    this.ready(about, phase);
    const defaults = model?.sampling ?? {};
    for (const name of ["temperature", "top_p"])
      $("sampling").elements[name].placeholder = defaults[name] ?? "1";
    this.listModels(names);
  }

  // `phase`: as the head shows it.
  ready({ ready, model }, phase) {
    const able = ready && !model?.embeds;
    $("send").disabled = !able && !this.answering;
    this.describe(model?.embeds
      ? "This model makes vectors and writes no text"
      : ready ? "Message" : `The model is not ready (${phase})`);
  }

  // Sending stays as possible as it was: what watches the server may fail alone, behind a proxy.
  unreachable() {
    this.describe(LOST);
  }

  reachable() {
    if ($("text").placeholder === LOST) this.describe("Message");
  }

  describe(field) {
    const before = $("text").placeholder;
    if (field === before) return;
    $("text").placeholder = field;
    if ($("said").textContent === `${before}.`) this.say(""); // it is no longer so
  }

  async listModels(names) {
    let all = names;
    if (this.about.model?.adapters && this.about.ready) {
      try {
        all = (await (await ask("v1/models")).json()).data.map(({ id }) => id);
      } catch {
        // The names that the server says of itself are enough.
      }
    }
    const select = $("sampling").elements.model;
    const chosen = select.value || this.chosen;
    select.replaceChildren(...all.map((name) => element("option", {}, name)));
    if (all.includes(chosen)) select.value = chosen;
    $("model-choice").hidden = all.length < 2;
  }

  get model() {
    return $("sampling").elements.model.value || this.about?.names[0] || "default";
  }

  fit() {
    const text = $("text");
    text.style.height = "auto";
    text.style.height = `${Math.min(text.scrollHeight + 2, innerHeight / 3)}px`;
  }

  send() {
    const content = $("text").value;
    if ((!content.trim() && !this.pictures.length) || this.refusesNow()) return;
    this.push({ role: "user", content, pictures: this.pictures });
    this.pictures = [];
    this.showAttached();
    $("text").value = "";
    this.fit();
    this.answer();
  }

  // Nothing can be sent now; says why.
  refusesNow() {
    if (this.answering) this.say("The model still answers.", { seen: true });
    else if ($("send").disabled) this.say(`${$("text").placeholder}.`, { seen: true });
    else return false;
    return true;
  }

  push(message) {
    // The conversation goes on: with the results, or without them.
    for (const form of $("log").querySelectorAll(".results")) form.remove();
    const name = message.role === "user" ? "You" : message.role === "tool" ? `Result of ${message.name}` : message.model || this.model;
    const view = new MessageView(message, name, {
      edit: (each) => this.edit(each),
      retry: (each) => this.retry(each),
      request: (each) => this.showRequest("The request of this answer", this.sentFor(each)),
      results: (each, texts) => this.results(each, texts),
    });
    view.drawn = () => this.follow();
    this.messages.push(message);
    this.views.push(view);
    $("log").append(view.root);
    $("empty").hidden = true;
    this.follow(true);
    return view;
  }

  cutAt(index) {
    for (const view of this.views.splice(index)) view.root.remove();
    this.messages.length = index;
    $("empty").hidden = index > 0;
  }

  edit(view) {
    if (this.answering) return;
    view.edit((text) => {
      if (text === null) return $("text").focus();
      if (this.refusesNow()) return false;
      const { pictures } = view.message;
      this.cutAt(this.views.indexOf(view));
      this.push({ role: "user", content: text, pictures });
      this.answer();
      $("text").focus();
    });
  }

  retry(view) {
    if (this.refusesNow()) return;
    this.cutAt(this.views.indexOf(view));
    this.answer();
  }

  results(view, texts) {
    if (this.refusesNow() || view !== this.views.at(-1)) return false;
    view.message.calls.forEach(({ id, name }, no) => this.push({ role: "tool", id, name, content: texts[no] }));
    this.answer();
    return true;
  }

  stop() {
    this.answering?.abort();
  }

  clear() {
    this.stop();
    this.cutAt(0);
    this.save();
    $("text").focus();
  }

  async answer() {
    const asked = { options: this.options, model: this.model };
    const request = body(this.messages, asked.options, asked.model);
    const message = { role: "assistant", model: this.model, content: "", reasoning: "", calls: [] };
    const view = this.push(message);
    view.asked = asked;
    view.root.classList.add("streaming");
    const abort = (this.answering = new AbortController());
    this.busy(true);
    this.say("The model answers.");
    const began = performance.now();
    try {
      await this.receive(await ask("v1/chat/completions", { body: request, signal: abort.signal }), message, view, began);
    } catch (error) {
      if (abort.signal.aborted) message.stopped = true;
      else message.fault = error.message || "The connection to the server was lost.";
    }
    message.seconds = (performance.now() - began) / 1e3;
    view.finish();
    if (message.calls.length && !message.fault && !message.stopped) view.askForResults();
    if (this.answering === abort) this.answering = null;
    this.busy(false);
    this.follow();
    this.say(message.fault ? "The answer failed." : message.stopped ? "Stopped." : "The answer is complete.");
    this.save();
  }

  async receive(response, message, view, began) {
    let ended = false;
    for await (const [, data] of serverSentEvents(response)) {
      if (data === null) continue;
      if (data === "[DONE]") {
        ended = true; // the server ends the stream itself: it would take a cut for a disconnect
        continue;
      }
      const frame = JSON.parse(data);
      if (frame.error) throw new Error(frame.error.message);
      if (frame.usage) message.usage = frame.usage;
      const [choice] = frame.choices ?? [];
      if (choice) this.gain(choice, message, view, began);
    }
    if (!ended) throw new Error("The connection to the server was lost.");
  }

  gain({ delta, finish_reason: finish }, message, view, began) {
    const { content, reasoning_content: reasoning, tool_calls: calls } = delta;
    const after = (performance.now() - began) / 1e3;
    if (content || reasoning || calls) message.ttftS ??= after;
    if (reasoning) message.reasoning += reasoning;
    if (content && message.reasoning) message.thoughtS ??= after - message.ttftS;
    if (content) message.content += content;
    if (content || reasoning) view.add({ content: content ?? "", reasoning: reasoning ?? "" });
    for (const { index, id, function: called } of calls ?? []) {
      const call = (message.calls[index] ??= { id, name: "", args: "" });
      call.name += called?.name ?? "";
      call.args += called?.arguments ?? "";
    }
    if (finish) message.finish = finish;
    if (!this.saving) this.saving = setTimeout(() => this.save(), SAVE_MS);
  }

  busy(busy) {
    $("stop").hidden = !busy;
    $("send").hidden = busy;
    // What would change the conversation; the rest, such as Copy, works meanwhile.
    for (const each of $("log").querySelectorAll(".turn")) each.disabled = busy;
  }

  // To those who hear the page; `seen`: to all. The same text once more would be read out again.
  say(text, { seen = false } = {}) {
    $("said").classList.toggle("hidden", !seen);
    if ($("said").textContent !== text) $("said").textContent = text;
  }

  // Stays at the end of the conversation, unless the user has scrolled away from it.
  follow(always = false) {
    const page = document.scrollingElement;
    if (always || page.scrollHeight - page.scrollTop - innerHeight < 120) page.scrollTop = page.scrollHeight;
  }

  async attach(files) {
    if (!this.about?.model?.pictures) return;
    for (const file of [...files].filter(({ type }) => type.startsWith("image/"))) {
      if (this.pictures.length >= MOST_PICTURES) break;
      try {
        this.pictures.push(await smaller(file));
      } catch {
        this.say(`${file.name} is no picture that this browser can read.`, { seen: true });
      }
    }
    this.showAttached();
  }

  showAttached() {
    const items = this.pictures.map((src, no) =>
      element("li", {}, element("img", { src, alt: `Picture ${no + 1}` }), button("Remove", () => (this.pictures.splice(no, 1), this.showAttached()), { "aria-label": `Remove picture ${no + 1}` })),
    );
    $("attached").replaceChildren(...items);
    $("attached").hidden = !items.length;
  }

  // What would be sent now; with an empty field what was sent last.
  showDrafted() {
    const content = $("text").value;
    const last = this.views.findLast(({ message }) => message.role === "assistant");
    const isEmpty = !content.trim() && !this.pictures.length;
    if (isEmpty && last) return this.showRequest("The last request", this.sentFor(last));
    const draft = { role: "user", content: isEmpty ? "Hello!" : content, pictures: this.pictures };
    this.showRequest(isEmpty ? "An example" : "This message", body([...this.messages, draft], this.options, this.model));
  }

  // The request of an answer. A reload keeps the options of the last one only.
  sentFor(view) {
    const { options, model } = view.asked ?? this;
    return body(this.messages.slice(0, this.views.indexOf(view)), options, model);
  }

  showRequest(what, request) {
    $("request-title").textContent = `${what} as code`;
    const base = new URL(".", location.href.split("#")[0]).href;
    const wantsKey = Boolean(key.get());
    $("as-curl").replaceChildren(codeBlock(asCurl(request, base, wantsKey), "sh").block);
    $("as-python").replaceChildren(codeBlock(asPython(request, base, wantsKey), "python").block);
    $("request").showModal();
  }

  save() {
    clearTimeout(this.saving);
    this.saving = null;
    const { options } = this;
    for (const messages of smallerAndSmaller(this.messages)) {
      const text = JSON.stringify({ messages, options });
      if (text.length > MOST_STORED) continue;
      try {
        storage.setItem(STORED, text);
        return;
      } catch {
        // No room: with less of it there may be.
      }
    }
    storage.removeItem(STORED);
  }

  restore() {
    let stored;
    try {
      stored = JSON.parse(storage.getItem(STORED) ?? "{}");
    } catch {
      return; // of another release
    }
    for (const [name, value] of Object.entries(stored.options ?? {})) {
      const field = $("sampling").elements[name];
      if (name === "model") this.chosen = value;
      else if (field) field.value = value;
    }
    for (const message of stored.messages ?? []) {
      // It was being answered when the page was left.
      if (message.role === "assistant" && !message.finish && !message.fault) message.stopped = true;
      const view = this.push(message);
      if (message.role === "assistant") view.finish();
    }
    const last = this.views.at(-1);
    if (last?.message.calls?.length && !last.message.fault && !last.message.stopped) last.askForResults();
    this.optionsChanged();
  }
}

// The conversation, then without its pictures, then without its beginning.
function* smallerAndSmaller(messages) {
  yield messages;
  const plain = messages.map(({ pictures: _, ...rest }) => rest);
  for (let from = 0; from < plain.length; from = from ? 2 * from : 1) yield plain.slice(from);
}

// A picture as the address of its data, no larger than a model needs.
async function smaller(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, PICTURE_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = element("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.9);
}
