// What the server is and does: the newest figures, and graphs of the last minutes.

import { $, element } from "./dom.js";

const GRAPH_MS = 300_000;
const GAP_MS = 5_000;
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

const KINDS = { ready: "good", starting: "busy", loading: "busy", warming: "busy", following: "good", leaving: "busy", draining: "busy" };
const PHASES = { starting: "Importing the engine", loading: "Loading the model", warming: "Generating the first token" };

export const seconds = (value) =>
  value === null || value === undefined ? "–" : value < 0.0995 ? `${one.format(value * 1e3)} ms` : value < 1 ? `${whole.format(value * 1e3)} ms` : `${one.format(value)} s`;
const percent = (share) => (share === null || share === undefined ? "–" : `${one.format(100 * share)} %`);
const bytes = (count) => (count < 1e9 ? `${whole.format(count / 1e6)} MB` : `${one.format(count / 1e9)} GB`);
// Percentiles are estimates; of a few requests there is the mean only, which is exact.
function spread({ p50, p99, mean, recent, count }) {
  if (!count) return [seconds(null), "no request yet"];
  const since = recent ? "last minute" : "since the start";
  if (p50 !== null) return [`≈ ${seconds(p50)}`, `p99 ≈ ${seconds(p99)} · ${since}`];
  return [seconds(mean), `${count === 1 ? "1 request" : `mean of ${count} requests`} · ${since}`];
}

function duration(value) {
  const [days, hours, minutes] = [value / 86400, (value / 3600) % 24, (value / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${Math.floor(value % 60)} s` : `${whole.format(value)} s`;
}

// Columns of a point, as the server sends it.
const [AT, TOKENS, IN_FLIGHT, WAITING, TTFT, BETWEEN, CACHED, USED] = [0, 1, 2, 3, 4, 5, 6, 7];

const FIGURES = [
  ["Tokens per second", TOKENS, ({ point }, recent) => [one.format(point[TOKENS]), `most in 5 min ${one.format(recent[TOKENS])}`]],
  ["In flight", IN_FLIGHT, ({ point, running, queued }) => [whole.format(point[IN_FLIGHT]), `${whole.format(running)} sequences in the engine${queued ? `, ${whole.format(queued)} wait there` : ""}`]],
  ["Queue", WAITING, ({ point }, recent) => [whole.format(point[WAITING]), `most in 5 min ${whole.format(recent[WAITING])}`]],
  ["Time to first token", TTFT, ({ ttft }) => spread(ttft)],
  ["Between tokens", BETWEEN, ({ between }) => spread(between)],
  ["Cache hits", CACHED, ({ cached: [recent, ever] }) => [percent(recent ?? ever), recent === null ? "of prompt tokens, since the start" : "of prompt tokens, last minute"]],
  ["KV cache in use", USED, ({ kv: [used, all], point }) => [percent(point[USED]), all ? `${whole.format(used)} of ${whole.format(all)} tokens` : "not known yet"]],
  ["Answered", null, ({ totals }) => [whole.format(totals.answered), `${whole.format(totals.refused)} refused (4xx), ${whole.format(totals.failed)} failed (5xx)`]],
  ["Tokens", null, ({ totals }) => [whole.format(totals.completion_tokens), `generated; ${whole.format(totals.prompt_tokens)} read in prompts`]],
];

export class State {
  constructor() {
    this.points = [];
    this.cards = FIGURES.map(([title, column, show]) => {
      const value = element("p", { class: "value" }, "–");
      const note = element("p", { class: "small" });
      const canvas = column === null ? null : element("canvas", { class: "graph", "aria-hidden": "true" });
      $("figures").append(element("div", { class: "card" }, element("h2", {}, title), value, note, canvas));
      return { value, note, canvas, column, show };
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawAll());
    addEventListener("resize", () => this.drawAll());
  }

  about(about) {
    this.info = about;
    document.title = `${about.names[0]} · ${about.phase}`;
    $("model").textContent = about.names[0];
    const { model } = about;
    const facts = [
      ["Model", model?.path],
      ["Names", about.names.join(", ")],
      ["Context", model && `${whole.format(model.context)} tokens`],
      ["Device", model?.device],
      ["Engine", about.engine === "scripted" ? "scripted: no model is behind this server" : `SGLang ${about.sglang ?? ""}`],
      ["Release", about.commit ? `${about.version} (${about.commit})` : about.version],
      ["Serving processes", String(about.processes)],
      ["Region", about.region === "unknown" ? null : about.region],
    ];
    $("facts").replaceChildren(
      ...facts.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
      element("dt", {}, "Up for"), (this.uptime = element("dd")),
    );
    return this.phase(about);
  }

  // Phase, and how far the start is. Returns its word in the head.
  phase({ phase, asleep, reason, uptime_s: uptime, took_s: took, fetched, ready }) {
    const pill = $("phase");
    pill.textContent = asleep ? "asleep" : phase;
    pill.dataset.kind = asleep ? "busy" : KINDS[phase] ?? "bad";
    if (this.uptime) this.uptime.textContent = duration(uptime);
    const starts = phase in PHASES;
    $("start").hidden = !starts && !reason;
    if (starts || reason) this.start({ phase, took, fetched, reason });
    this.notice = starts
      ? `${PHASES[phase]}: ${whole.format(took[`${phase}_s`] ?? 0)} s${fetched ? `, ${bytes(fetched[0])} of ${bytes(fetched[1])}` : ""}`
      : reason || (asleep && !ready ? "The engine sleeps until the operator wakes it." : "");
    return pill.textContent;
  }

  start({ phase, took, fetched, reason }) {
    const items = Object.entries(PHASES).map(([name, text]) => {
      const item = element("li", { "aria-current": name === phase ? "step" : null }, text);
      if (`${name}_s` in took) item.append(element("span", { class: "small" }, ` ${one.format(took[`${name}_s`])} s`));
      return item;
    });
    if (reason) items.push(element("li", { class: "fault" }, reason));
    $("phases").replaceChildren(...items);
    $("download").hidden = !fetched;
    if (fetched) {
      $("download-bar").value = fetched[1] ? fetched[0] / fetched[1] : 0;
      $("download-text").textContent = `${bytes(fetched[0])} of ${bytes(fetched[1])} downloaded`;
    }
  }

  past(points) {
    if (!this.points.length) this.points = points;
  }

  sample(sample) {
    this.points.push(sample.point);
    const oldest = sample.point[AT] - GRAPH_MS;
    this.points.splice(0, this.points.findIndex((point) => point[AT] >= oldest));
    const phase = this.phase(sample);
    this.newest = sample;
    if (!$("state").hidden) this.show();
    const { point } = sample;
    $("glance").textContent = `${whole.format(point[IN_FLIGHT])} in flight · ${one.format(point[TOKENS])} tokens/s`;
    return phase;
  }

  show() {
    if (!this.newest) return;
    const most = [];
    for (const point of this.points) point.forEach((value, no) => (most[no] = Math.max(most[no] ?? 0, value ?? 0)));
    for (const { value, note, show } of this.cards) [value.textContent, note.textContent] = show(this.newest, most);
    this.drawAll();
    this.errors(this.newest.errors);
  }

  errors(errors) {
    const shown = JSON.stringify(errors);
    if (shown === this.shown) return;
    this.shown = shown;
    $("no-errors").hidden = errors.length > 0;
    $("errors").hidden = !errors.length;
    $("errors").tBodies[0].replaceChildren(
      ...errors.map(({ at, status, code, route, id }) =>
        element(
          "tr",
          {},
          ...[new Date(at * 1e3).toLocaleTimeString(), status === 200 ? "200, then failed" : String(status), route].map((text) => element("td", {}, text)),
          // On a phone, which has no room for the table's head.
          element("td", { "data-name": "Code" }, code),
          element("td", { "data-name": "Request id" }, id),
        ),
      ),
    );
  }

  drawAll() {
    if ($("state").hidden) return;
    for (const { canvas, column } of this.cards) if (canvas) draw(canvas, this.points, column);
  }
}

function draw(canvas, points, column) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale)) [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  const now = points.at(-1)?.[AT] ?? 0;
  const share = column === USED || column === CACHED;
  const most = share ? 1 : Math.max(1e-9, ...points.map((point) => point[column] ?? 0));
  const x = (at) => width - ((now - at) / GRAPH_MS) * width;
  const y = (value) => height - 1.5 - (value / most) * (height - 4);
  context.strokeStyle = style.getPropertyValue("--line");
  context.fillStyle = style.getPropertyValue("--grid");
  context.fillRect(0, height - 1, width, 1);
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  // A second without a request has no time to a first token: such points stand alone.
  const sparse = column === TTFT || column === BETWEEN || column === CACHED;
  context.fillStyle = context.strokeStyle;
  context.beginPath();
  let before = null;
  for (const point of points) {
    const value = point[column];
    if (value === null) {
      if (!sparse) before = null;
      continue;
    }
    const gap = before === null || (!sparse && point[AT] - before > GAP_MS);
    if (gap) context.moveTo(x(point[AT]), y(value));
    else context.lineTo(x(point[AT]), y(value));
    if (sparse) context.fillRect(x(point[AT]) - 1.25, y(value) - 1.25, 2.5, 2.5);
    before = point[AT];
  }
  context.stroke();
}
