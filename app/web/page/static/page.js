// The page: its two views, its key, and the events of the server that feed them.

import { Watch, key, unsendable } from "./api.js";
import { Chat } from "./chat.js";
import { $ } from "./dom.js";
import { State } from "./state.js";

const chat = new Chat();
const state = new State();
let locked = false;

function view() {
  const name = location.hash === "#state" ? "state" : "chat";
  for (const each of ["chat", "state"]) {
    $(each).hidden = locked || each !== name;
    if (each === name) $(`to-${each}`).setAttribute("aria-current", "page");
    else $(`to-${each}`).removeAttribute("aria-current");
  }
  document.body.dataset.view = name;
  if (!locked && name === "state") state.show();
}

function notice(text) {
  if ($("notice").textContent === text && $("notice").hidden === !text) return;
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function lock(isLocked) {
  locked = isLocked;
  $("key-form").hidden = !locked;
  if (locked) $("key").focus();
  view();
}

const watch = new Watch({
  about(about) {
    if (locked || $("chat").hidden === $("state").hidden) lock(false);
    chat.serverIs(about, state.about(about));
    notice(state.notice);
  },
  past: (points) => state.past(points),
  sample(sample) {
    const phase = state.sample(sample);
    if (chat.about) chat.ready({ ...chat.about, ready: sample.ready }, phase);
    notice(state.notice);
  },
  lost(message, { answered }) {
    // It may answer all else: so many watch it already, or what it sent cannot be read here.
    $("phase").textContent = answered ? "state unknown" : "no connection";
    $("phase").dataset.kind = answered ? "unknown" : "bad";
    if (answered) chat.reachable();
    else chat.unreachable();
    notice(`${message} Trying again.`);
  },
  refused() {
    notice(key.get() ? "The server does not take this key." : "");
    key.set("");
    $("phase").textContent = "locked";
    $("phase").dataset.kind = "unknown";
    $("key").value = "";
    lock(true);
  },
});

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = $("key").value.trim();
  const odd = unsendable(typed);
  if (odd) {
    const name = odd.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    notice(`The key has a character that cannot be sent (U+${name}). Copy it again, without what surrounds it.`);
    return;
  }
  key.set(typed);
  notice("");
  watch.start();
});
addEventListener("hashchange", () => {
  view();
  scrollTo(0, location.hash === "#state" ? 0 : document.body.scrollHeight);
});
view();
// A keyboard of its own: typing may begin at once.
if (matchMedia("(hover: hover)").matches && !$("chat").hidden) $("text").focus({ preventScroll: true });
watch.start();
