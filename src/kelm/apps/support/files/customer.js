// The customer's page. What is shown is what the desk has stored: every answer and event carries the messages.

import { $, call, how, known, make, nameOf, notice, Refused, sends, words } from "./common.js";

const log = $("log");
const text = $("text");
const shown = new Map();  // message id -> its element
let chosen = null;
let waiting = null;  // the line that says that an answer is looked for

function choose(message, open) {
  chosen = message.id;
  for (const [id, element] of shown) {
    element.classList.toggle("chosen", id === chosen);
    element.querySelector(".show")?.setAttribute("aria-pressed", String(id === chosen));
  }
  $("how-body").replaceChildren(how(message.made));
  if (open) {
    $("how").classList.add("open");
    $("how-close").focus({ preventScroll: true });
  }
}

function voteButton(message, vote, label) {
  const pressed = message.vote === vote;
  return make("button", {
    type: "button", class: `vote ${vote}`, "aria-pressed": String(pressed), "aria-label": label, title: label,
    onclick: () => act("POST", "/api/votes", { message: message.id, vote: pressed ? null : vote }),
  });
}

function under(message) {
  const made = message.made;
  const parts = [];
  if (made.route === "passages") {
    const [best] = made.sources;
    parts.push(make("p", { class: "from" }, `${words.source} `,
      make("a", { href: best.url, target: "_blank", rel: "noopener" }, nameOf(best))));
  }
  parts.push(make("button", {
    type: "button", class: "show", "aria-pressed": "false", "aria-controls": "how", onclick: () => choose(message, true),
  }, words.how_short));
  if (made.route === "template" || made.route === "passages") {
    parts.push(voteButton(message, "up", words.helpful), voteButton(message, "down", words.unhelpful));
  }
  return make("div", { class: "under" }, ...parts);
}

function element(message) {
  const who = { customer: null, desk: null, person: words.a_person }[message.author];
  return make("article", { class: `message ${message.author}` },
    who ? make("p", { class: "who" }, who) : null,
    make("p", { class: "text" }, message.text),
    message.author === "desk" && message.made ? under(message) : null);
}

function show(state) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  let last = null;
  for (const message of state.messages) {
    const made = element(message);
    const before = shown.get(message.id);
    if (before) before.replaceWith(made);
    else log.append(made);
    if (!before && message.author === "desk") last = message;
    shown.set(message.id, made);
    if (message.id === chosen) choose(message, false);
  }
  if (last) choose(last, false);
  if (waiting) log.append(waiting);
  if (atEnd || state.messages.length) log.scrollTop = log.scrollHeight;
  if (!state.assistant) notice(words.away);
  else if (state.ticket) notice(state.ticket === "answered" ? words.answered : words.waiting, false);
  else notice("");
  $("person").disabled = Boolean(state.ticket);
}

function think(on) {
  waiting?.remove();
  waiting = on ? make("p", { class: "thinking" }, words.thinking) : null;
  if (waiting) log.append(waiting);
  log.scrollTop = log.scrollHeight;
}

async function act(method, path, body) {
  try {
    show(await call(method, path, body));
    return true;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) location.reload();
    notice(error instanceof Refused ? `${words.failed}: ${error.message}` : words.offline);
    return false;
  }
}

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = text.value.trim();
  if (!asked || $("ask").querySelector("button").disabled) return;
  $("ask").querySelector("button").disabled = true;
  text.value = "";
  text.style.height = "";
  think(true);
  const done = await act("POST", "/api/messages", { text: asked });
  think(false);
  if (!done) text.value = text.value || asked;
  $("ask").querySelector("button").disabled = false;
  text.focus();
});

$("person").addEventListener("click", () => act("POST", "/api/person", {}));
$("new").addEventListener("click", async () => {
  await call("POST", "/api/conversation/new", {}).catch(() => {});
  location.reload();
});
function hide() {
  $("how").classList.remove("open");
  log.focus({ preventScroll: true });
}
$("how-close").addEventListener("click", hide);
document.addEventListener("keydown", (event) => event.key === "Escape" && $("how").classList.contains("open") && hide());

function listen() {
  const events = new EventSource(`/api/events?lang=${known.lang}`);
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.onerror = () => {
    notice(words.offline);
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
}

sends($("ask"), text);
listen();
text.focus();
