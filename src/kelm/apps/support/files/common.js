// What both pages share: elements made from text (never from HTML), calls to our own doors, how an answer was made.

export const known = JSON.parse(document.getElementById("known").textContent);
export const words = known.words;
export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function call(method, path, body) {
  const asked = { method, headers: { accept: "application/json" } };
  if (body !== undefined) {
    asked.headers["content-type"] = "application/json";
    asked.body = JSON.stringify(body);
  }
  const url = new URL(path, location.origin);
  url.searchParams.set("lang", known.lang);
  const response = await fetch(url, asked);
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, value.error?.message ?? words.failed);
  return value;
}

export function notice(text, warns = true) {
  $("notice").textContent = text ?? "";
  $("notice").classList.toggle("warn", warns);
  $("notice").hidden = !text;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleString(document.documentElement.lang, {
    month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
  });
}

const inside = (share) => Math.min(1, Math.max(0, share));
const percent = (share) => `${Math.round(inside(share) * 100)} %`;

function bar(value, needed) {
  const filled = make("i");
  filled.style.width = `${inside(value) * 100}%`;
  const mark = make("b");
  mark.style.left = `${inside(needed) * 100}%`;
  const text = needed > 1 ? percent(value) : `${percent(value)}, ${words.needed} ${percent(needed)}`;
  return [
    make("div", { class: "bar", "aria-hidden": "true" }, filled, needed > 1 ? null : mark),
    make("span", { class: "small" }, text),
  ];
}

// A source -> what it is called.
export const nameOf = (each) => (each.heading === each.title ? each.title : `${each.title} – ${each.heading}`);

function source(each, used) {
  const scores = [`${words.wording} ${percent(each.coverage)}`];
  if (each.cosine !== null) scores.unshift(`${words.meaning} ${percent(each.cosine)}`);
  return make("li", used ? { class: "used" } : {},
    make("a", { href: each.url, target: "_blank", rel: "noopener" }, nameOf(each)),
    make("p", {}, scores.join(" · ")));
}

// `made` as the desk stores it (made.py) -> a list for the panel.
export function how(made) {
  const list = make("dl");
  const row = (name, ...values) => list.append(make("dt", {}, name), make("dd", {}, ...values));
  row(words.route, words[`route_${made.route}`]);
  if (made.why) row(words.why, words[`why_${made.why}`]);
  if (made.intent) {
    const sure = made.intent_confidence === undefined ? [] : bar(made.intent_confidence, made.intent_threshold);
    row(words.intent, make("code", {}, made.intent), ...sure);
  }
  for (const [name, value] of Object.entries(made.slots ?? {})) row(words.details, make("code", {}, `${name} = ${value}`));
  if (made.passage_confidence !== undefined) {
    row(words.articles, ...bar(made.passage_confidence, made.passage_threshold));
  }
  if (made.written_by) row(words.written_by, words[`written_by_${made.written_by}`]);
  if (made.left_out) row(words.left_out, String(made.left_out));
  if (made.readable === false) list.append(make("dd", { class: "small" }, words.unreadable));
  if (made.sources?.length) {
    const used = made.route === "passages" ? (made.written_by === "passage" ? 1 : made.sources.length) : 0;
    const items = made.sources.map((each, place) => source(each, place < used));
    row(used ? words.sources : words.nearest, make("ol", {}, ...items));
  }
  return list;
}

// Enter sends, Shift+Enter is a new line; a key that ends the choice of a character (Chinese input) does neither.
export function sends(form, text) {
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  text.addEventListener("input", () => {
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight + 2}px`;
  });
}
