// Elements are made here, and text enters them as text only: nowhere is HTML parsed.

export const $ = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const button = (text, onclick, attributes = {}) =>
  element("button", { type: "button", onclick, ...attributes }, text);

// The clipboard exists on https and on localhost only; the old way works everywhere.
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not allowed here: the old way is tried.
    }
  }
  const area = element("textarea", { class: "hidden", "aria-hidden": "true" });
  area.value = text;
  (document.querySelector("dialog[open]") || document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

export function copyButton(text, label = "Copy") {
  const made = button(label, async () => {
    made.textContent = (await copy(text())) ? "Copied" : "Not allowed";
    setTimeout(() => (made.textContent = label), 1500);
  });
  return made;
}

export function codeBlock(text, language = "") {
  const code = element("code", {}, text);
  const block = element(
    "div",
    { class: "code" },
    element("div", { class: "code-head" }, element("span", {}, language), copyButton(() => code.textContent)),
    element("pre", { tabindex: "0" }, code),
  );
  return { block, code };
}
