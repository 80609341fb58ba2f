// The page of the persons who answer: waiting tickets, one of them open, a reply that the customer sees at once.

import { $, call, clock, how, make, notice, Refused, sends, words } from "./common.js";

const LOOK_MS = 2000;
let closed = false;
let number = null;  // of the ticket that is shown
let drawn = "";  // what is shown of it, so that nothing moves unless something changed
let listed = "";

async function enter(key) {
  await call("POST", "/desk/api/enter", { key });
  await look();
}

function locked(on) {
  $("enter").hidden = !on;
  $("work").hidden = on;
  if (on) $("key").focus();
}

function line(ticket) {
  const about = `#${ticket.id} · ${words[`state_${ticket.state}`]} · ${clock(ticket.opened)}`;
  return make("li", {}, make("button", {
    type: "button", "aria-current": String(ticket.id === number), onclick: () => open(ticket.id),
  },
  make("span", { class: "what" }, ticket.question || words[`why_${ticket.why}`]),
  make("span", { class: "when" }, about)));
}

function list(tickets) {
  const now = JSON.stringify([tickets, number]);
  if (now === listed) return;
  listed = now;
  $("list").replaceChildren(...tickets.map(line));
  $("none").hidden = tickets.length > 0;
}

function message(each) {
  const who = { customer: words.customer, desk: words.assistant, person: words.you }[each.author];
  return make("article", { class: `message ${each.author}` },
    make("p", { class: "who" }, `${who} · ${clock(each.sent)}`),
    make("p", { class: "text" }, each.text));
}

function draw(ticket) {
  const now = JSON.stringify(ticket);
  if (now === drawn) return;
  drawn = now;
  $("choose").hidden = true;
  $("shown").hidden = false;
  document.body.classList.add("showing");
  $("question").textContent = ticket.question || words[`why_${ticket.why}`];
  const about = [`#${ticket.id}`, words[`state_${ticket.state}`], clock(ticket.opened), words[`why_${ticket.why}`],
    words[`speaks_${ticket.language}`]];
  $("about").textContent = about.join(" · ");
  $("log").replaceChildren(...ticket.messages.map(message));
  $("how-body").replaceChildren(ticket.guess ? how(ticket.guess) : "");
  $("reply").hidden = ticket.state === "closed";
  $("log").scrollTop = $("log").scrollHeight;
}

async function open(id) {
  number = id;
  $("text").value = "";
  await look();
}

async function look() {
  try {
    const asked = number;
    list((await call("GET", `/desk/api/tickets?closed=${closed ? 1 : 0}`)).tickets);
    if (asked !== null) {
      const ticket = await call("GET", `/desk/api/tickets/${asked}`);
      if (asked === number) draw(ticket);
    }
    locked(false);
    notice("");
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  if (error instanceof Refused && error.status === 401) locked(true);
  else notice(error instanceof Refused ? `${words.failed}: ${error.message}` : words.offline);
}

async function act(path, body) {
  try {
    draw(await call("POST", `/desk/api/tickets/${number}/${path}`, body));
    await look();
    return true;
  } catch (error) {
    failed(error);
    return false;
  }
}

function tab(wanted) {
  closed = wanted;
  $("tab-open").setAttribute("aria-pressed", String(!closed));
  $("tab-closed").setAttribute("aria-pressed", String(closed));
  look();
}

$("tab-open").addEventListener("click", () => tab(false));
$("tab-closed").addEventListener("click", () => tab(true));
$("back").addEventListener("click", () => {
  number = null;
  drawn = "";
  document.body.classList.remove("showing");
  $("shown").hidden = true;
  $("choose").hidden = false;
});
$("close").addEventListener("click", () => act("close", {}));
$("reply").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text && (await act("reply", { text }))) {
    $("text").value = "";
    $("text").style.height = "";
  }
});
$("enter").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  try {
    await enter(key);
    $("key").value = "";
  } catch (error) {
    notice(`${words.failed}: ${error.message}`);
  }
});

sends($("reply"), $("text"));
const given = location.hash.slice(1);  // the link that `kelm support` prints carries the key behind the #
if (given) {
  history.replaceState(null, "", location.pathname + location.search);
  enter(given).catch(failed);
} else {
  look();
}
setInterval(() => $("enter").hidden && look(), LOOK_MS);
