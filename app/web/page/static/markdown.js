// Markdown as elements, for text that a model wrote and nobody has checked.
//
// Text becomes text nodes; no HTML is parsed, no address but http(s) becomes a link, no picture is
// fetched. Everything is bounded: nesting, elements of one answer, and the work for each character.
// Text that streams is cut at blank lines: what lies before the last one is rendered once.

import { codeBlock, element } from "./dom.js";

const MOST_NESTING = 6;
const MOST_ELEMENTS = 20_000;
const MOST_TAIL = 16_384;

export class Markdown {
  constructor(container) {
    this.container = container;
    this.budget = { left: MOST_ELEMENTS };
    this.rest = ""; // not rendered for good yet
    this.tail = []; // what `rest` looks like for now
    this.fence = null; // an open code block: { mark, indent, node, inLine }
  }

  append(text) {
    this.rest += text;
    while (this.fence || this.budget.left > 0) {
      if (this.fence ? !this.feedCode() : !this.feedText()) return this.redraw();
    }
    this.plain();
  }

  finish() {
    if (this.fence) {
      this.rest += "\n"; // its last line may be the closing fence
      this.feedCode();
    }
    if (this.fence) {
      this.add(this.rest.trimEnd());
      this.fence = null;
    } else if (this.budget.left <= 0) this.plain();
    else if (this.rest.trim()) {
      this.clearTail();
      this.container.append(...blocks(this.rest.split("\n"), 0, this.budget));
    }
    this.rest = "";
    this.tail = [];
  }

  // Moves what is complete out of `rest`; true: there may be more.
  feedText() {
    const long = this.rest.length > MOST_TAIL;
    const open = openFence(this.rest);
    let cut = open ? open.at : this.rest.lastIndexOf("\n\n", MOST_TAIL);
    if (cut < 0 && long) cut = this.rest.lastIndexOf("\n", MOST_TAIL);
    if (cut <= 0 && long && !open) cut = MOST_TAIL;
    if (cut < 0) return false;
    const ready = this.rest.slice(0, cut);
    this.clearTail();
    if (ready.trim()) this.container.append(...blocks(ready.split("\n"), 0, this.budget));
    if (!open) {
      this.rest = this.rest.slice(cut).replace(/^\n+/, "");
      return long && this.budget.left > 0;
    }
    const { block, code } = codeBlock("", open.language);
    const node = document.createTextNode("");
    code.append(node);
    this.container.append(block);
    this.budget.left -= 6;
    this.rest = this.rest.slice(cut + open.length);
    this.fence = { mark: open.mark, indent: new RegExp(`(\\n|^) {0,${open.indent}}`, "g"), node, inLine: false };
    return true;
  }

  feedCode() {
    const { fence } = this;
    if (fence.inLine) {
      const end = this.rest.indexOf("\n");
      fence.node.appendData(this.rest.slice(0, end < 0 ? undefined : end));
      this.rest = end < 0 ? "" : this.rest.slice(end);
      fence.inLine = end < 0;
      if (fence.inLine) return false;
    }
    const found = closing(this.rest, fence.mark);
    if (found) {
      this.add(this.rest.slice(0, Math.max(0, found.at - 1)));
      this.rest = this.rest.slice(found.at + found.length);
      this.fence = null;
      return true;
    }
    // The last line may begin the closing fence, and the line end before it belongs to it then.
    const lineEnd = this.rest.lastIndexOf("\n");
    if (lineEnd > 0) {
      this.add(this.rest.slice(0, lineEnd));
      this.rest = this.rest.slice(lineEnd);
    }
    if (this.rest.length > MOST_FENCE) {
      this.add(this.rest);
      this.rest = "";
      fence.inLine = true;
    }
    return false;
  }

  // Whole lines of code, without the indentation of the block.
  add(code) {
    this.fence.node.appendData(code.replace(this.fence.indent, "$1"));
  }

  clearTail() {
    for (const node of this.tail) node.remove();
    this.tail = [];
  }

  redraw() {
    this.clearTail();
    if (this.fence || !this.rest) return;
    this.tail = blocks(this.rest.split("\n"), 0, { left: Math.min(this.budget.left, 2000) });
    this.container.append(...this.tail);
  }

  // The text as it is: the answer has had its elements.
  plain() {
    this.clearTail();
    if (!this.rest) return;
    if (!this.overflow) {
      this.overflow = document.createTextNode("");
      this.container.append(element("pre", { class: "plain", tabindex: "0" }, this.overflow));
    }
    this.overflow.appendData(this.rest);
    this.rest = "";
  }
}

const MOST_FENCE = 300;
const FENCE = /^( {0,12})(`{3,}|~{3,})[ \t]*([^\s`]{0,40})[^`\n]{0,200}$/;
const fenceOf = (line) => (line.length < MOST_FENCE ? FENCE.exec(line) : null);
const closes = (line, mark) =>
  line.length < MOST_FENCE && line.trim().startsWith(mark) && !line.replaceAll(mark[0], "").trim();

// The first code block that begins in a complete line, not far from the beginning.
function openFence(text) {
  for (let at = 0; at < MOST_TAIL; ) {
    const end = text.indexOf("\n", at);
    if (end < 0) return null;
    const match = end - at < MOST_FENCE && fenceOf(text.slice(at, end));
    if (match) return { at, length: end - at + 1, indent: match[1].length, mark: match[2], language: match[3] };
    at = end + 1;
  }
  return null;
}

// The complete line that closes a code block.
function closing(text, mark) {
  for (let at = 0; (at = text.indexOf(mark, at)) >= 0; ) {
    const begin = text.lastIndexOf("\n", at) + 1;
    const end = text.indexOf("\n", at);
    if (end < 0) return null;
    if (closes(text.slice(begin, Math.min(end, begin + MOST_FENCE)), mark)) return { at: begin, length: end - begin + 1 };
    at = end;
  }
  return null;
}

const ITEM = /^( *)([-*+]|\d{1,9}[.)]) +(?=\S)/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const HEADING = /^ {0,3}(#{1,6}) +(?=\S)/;
const TABLE_RULE = /^\|?(?: *:?-+:? *\|)* *:?-+:? *\|?$/;
const isTableRule = (line) => line.length < 500 && line.includes("-") && TABLE_RULE.test(line.trim());

// Lines as block elements.
function blocks(lines, depth, budget) {
  const made = [];
  for (let at = 0; at < lines.length; ) {
    if (budget.left <= 0) {
      made.push(element("pre", { class: "plain", tabindex: "0" }, lines.slice(at).join("\n")));
      break;
    }
    const line = lines[at].length > 5000 ? "" : lines[at];
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    budget.left -= 1;
    let match;
    if ((match = fenceOf(line))) at = fenced(lines, at, match, made, budget);
    else if ((match = HEADING.exec(line))) {
      // One level for all: what a model writes is no outline of this page.
      const text = line.slice(match[0].length).trimEnd().replace(/ #+$/, "");
      made.push(element("h3", { class: `level-${match[1].length}` }, ...inline(text, 0, budget)));
      at += 1;
    } else if (RULE.test(line)) {
      made.push(element("hr"));
      at += 1;
    } else if (depth < MOST_NESTING && /^ {0,3}>/.test(line)) at = quote(lines, at, made, depth, budget);
    else if (depth < MOST_NESTING && ITEM.test(line)) at = list(lines, at, made, depth, budget);
    else if (line.includes("|") && at + 1 < lines.length && isTableRule(lines[at + 1]))
      at = table(lines, at, made, budget);
    else at = paragraph(lines, at, made, budget);
  }
  return made;
}

function fenced(lines, at, match, made, budget) {
  const body = [];
  for (at += 1; at < lines.length && !closes(lines[at], match[2]); at += 1) body.push(lines[at]);
  budget.left -= 6;
  made.push(codeBlock(body.join("\n"), match[3]).block);
  return at + 1;
}

function quote(lines, at, made, depth, budget) {
  const body = [];
  for (; at < lines.length && /^ {0,3}>/.test(lines[at]); at += 1) body.push(lines[at].replace(/^ {0,3}> ?/, ""));
  made.push(element("blockquote", {}, ...blocks(body, depth + 1, budget)));
  return at;
}

function list(lines, at, made, depth, budget) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const indent = first[1].length;
  const items = element(ordered ? "ol" : "ul");
  if (ordered && parseInt(first[2], 10) !== 1) items.setAttribute("start", parseInt(first[2], 10));
  while (at < lines.length && budget.left > 0) {
    const match = ITEM.exec(lines[at]);
    if (!match || match[1].length > indent + 1 || match[1].length < indent || /\d/.test(match[2]) !== ordered) break;
    const inner = match[0].length;
    const body = [lines[at].slice(inner)];
    for (at += 1; at < lines.length; at += 1) {
      const line = lines[at];
      const blank = line.search(/\S/);
      if (blank < 0) {
        if (at + 1 >= lines.length || !/^ {2,}\S/.test(lines[at + 1]) || lines[at + 1].search(/\S/) <= indent) break;
        body.push("");
      } else if (blank > indent) body.push(line.slice(Math.min(blank, inner)));
      else break;
    }
    budget.left -= 1;
    const content = blocks(body, depth + 1, budget);
    // One paragraph alone stands in the item itself.
    items.append(element("li", {}, ...(content[0]?.tagName === "P" ? [...content[0].childNodes, ...content.slice(1)] : content)));
    while (at < lines.length - 1 && !lines[at].trim() && ITEM.test(lines[at + 1])) at += 1;
  }
  made.push(items);
  return at;
}

const MOST_COLUMNS = 40;

function cells(line) {
  const parts = line.trim().replace(/^\|/, "").replace(/\|$/, "").split("|", MOST_COLUMNS);
  return parts.map((part) => part.trim());
}

function table(lines, at, made, budget) {
  const head = cells(lines[at]);
  const row = (kind, texts) =>
    element("tr", {}, ...head.map((_, no) => element(kind, kind === "th" ? { scope: "col" } : {}, ...inline(texts[no] ?? "", 0, budget))));
  const body = element("tbody");
  budget.left -= head.length + 5;
  const top = element("thead", {}, row("th", head));
  for (at += 2; at < lines.length && lines[at].includes("|") && budget.left > 0; at += 1) {
    budget.left -= head.length + 1;
    body.append(row("td", cells(lines[at])));
  }
  made.push(element("div", { class: "scroll", tabindex: "0" }, element("table", {}, top, body)));
  return at;
}

function paragraph(lines, at, made, budget) {
  const text = [lines[at]];
  for (at += 1; at < lines.length; at += 1) {
    const line = lines[at];
    if (!line.trim() || (line.length < 5000 && (fenceOf(line) || HEADING.test(line) || ITEM.test(line) || /^ {0,3}>/.test(line)))) break;
    text.push(line);
  }
  made.push(element("p", {}, ...inline(text.join("\n"), 0, budget)));
  return at;
}

const LINK = /\[([^[\]\n]{1,500})\]\(\s{0,3}<?([^()\s<>]{1,2000}(?:\([^()\s<>]{0,200}\)[^()\s<>]{0,200})?)>?(?:\s{1,3}"[^"\n]{0,200}")?\)/y;
const BARE = /https?:\/\/[^\s<>"'`|\\^{}[\]]{1,2000}/y;
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const SPECIAL = /[`*_~[\\h\n]/g;

// The text of a block as text nodes and inline elements.
function inline(text, depth, budget) {
  const made = [];
  const dead = new Set(); // marks that have no end in the rest of the text: looked for once
  let from = 0;
  const flush = (to) => {
    if (to > from) made.push(document.createTextNode(text.slice(from, to)));
  };
  for (SPECIAL.lastIndex = 0; ; ) {
    const found = SPECIAL.exec(text);
    if (!found) break;
    if (budget.left <= 0) break;
    const at = found.index;
    const step = special(text, at, depth, dead, budget);
    if (!step) continue;
    flush(at);
    made.push(step.node);
    budget.left -= 1;
    from = SPECIAL.lastIndex = step.to;
    // A nested call has used the same expression.
    SPECIAL.lastIndex = from;
  }
  flush(text.length);
  return made;
}

function special(text, at, depth, dead, budget) {
  const character = text[at];
  if (character === "\\") {
    const next = text[at + 1];
    return next && "\\`*_{}[]()#+-.!~|>".includes(next) ? { node: document.createTextNode(next), to: at + 2 } : null;
  }
  if (character === "\n") return / {2}$/.test(text.slice(at - 2, at)) ? { node: element("br"), to: at + 1 } : null;
  if (character === "`") return code(text, at, dead);
  if (character === "[") return link(text, at, depth, budget);
  if (character === "h") return bare(text, at);
  return emphasis(text, at, depth, dead, budget);
}

function code(text, at, dead) {
  let ticks = 1;
  while (text[at + ticks] === "`" && ticks < 20) ticks += 1;
  const mark = "`".repeat(ticks);
  if (dead.has(mark)) return null;
  const end = text.indexOf(mark, at + ticks);
  if (end < 0) {
    dead.add(mark);
    return null;
  }
  const inner = text.slice(at + ticks, end).replace(/\n/g, " ");
  return { node: element("code", {}, inner.length > 2 ? inner.replace(/^ (.*) $/, "$1") : inner), to: end + ticks };
}

function link(text, at, depth, budget) {
  LINK.lastIndex = at;
  const match = LINK.exec(text);
  const href = match && safe(match[2]);
  if (!href || depth >= MOST_NESTING) return null;
  const end = at + match[0].length;
  return { node: anchor(href, ...inline(match[1], MOST_NESTING, budget)), to: end };
}

function bare(text, at) {
  if (/\w/.test(text[at - 1] ?? "")) return null;
  BARE.lastIndex = at;
  const match = BARE.exec(text);
  if (!match) return null;
  const address = match[0].replace(/[.,;:!?)*_~]{1,8}$/, "");
  const href = safe(address);
  return href ? { node: anchor(href, address), to: at + address.length } : null;
}

function emphasis(text, at, depth, dead, budget) {
  if (depth >= MOST_NESTING) return null;
  const [mark, name] = MARKS.find(([each]) => text.startsWith(each, at)) ?? [];
  if (!mark || dead.has(mark) || /\s/.test(text[at + mark.length] ?? " ")) return null;
  const word = mark[0] === "_";
  if (word && /\w/.test(text[at - 1] ?? "")) return null;
  for (let end = at + mark.length; (end = text.indexOf(mark, end + 1)) >= 0; ) {
    if (mark.length === 1 && text[end + 1] === mark) {
      end += 1; // a double mark inside
      continue;
    }
    if (/\s/.test(text[end - 1]) || (word && /\w/.test(text[end + mark.length] ?? ""))) continue;
    const inner = inline(text.slice(at + mark.length, end), depth + 1, budget);
    return { node: element(name, {}, ...inner), to: end + mark.length };
  }
  dead.add(mark);
  return null;
}

function safe(address) {
  try {
    const url = new URL(address);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}

const anchor = (href, ...children) =>
  element("a", { href, rel: "noopener noreferrer nofollow", target: "_blank" }, ...children);
