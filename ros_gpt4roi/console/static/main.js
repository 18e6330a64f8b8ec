// The page: brings connection, live picture, regions, conversations, watches, voice and health together.

import { Connection } from "./connection.js";
import { aboutRegion, Conversations, freeId } from "./conversations.js";
import { Health } from "./health.js";
import { settle } from "./pending.js";
import { RegionList } from "./regions.js";
import { decode, View } from "./view.js";
import { Voice } from "./voice.js";
import { Watches } from "./watches.js";

const find = (id) => document.getElementById(id);

// The address that the terminal shows holds the token behind a #, which no server gets to see.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}

function status(text, lost = false) {
  if (find("connection").textContent !== text) find("connection").textContent = text;
  find("connection").classList.toggle("lost", lost);
}

function announce(text) {
  find("announcement").textContent = text;
}

function takeQuestion() {
  const text = find("live-question").value.trim();
  find("live-question").value = "";
  return text;
}

let pointed = null; // what was pointed at last on the live picture: {id} of a region, or {box}

function point(at) {
  pointed = at;
  live.light(at.id === undefined ? [] : [at.id]);
  live.mark(at.box ?? null);
}

const askAboutRegion = (frame, region) => {
  point({ id: region.id });
  const card = conversations.open(frame, aboutRegion(takeQuestion(), region.id));
  card.view.light([region.id]);
};

const askAboutBox = (frame, box) => {
  point({ box });
  const id = freeId(frame.regions);
  conversations.open(frame, aboutRegion(takeQuestion(), id), [{ id, box }]);
};

const connection = new Connection({
  welcome(message) {
    find("token-form").hidden = true;
    find("console").hidden = false;
    status(`Connected, namespace ${message.namespace}`);
  },
  token(reason) {
    find("console").hidden = true;
    find("token-form").hidden = false;
    find("token-reason").textContent = reason;
    status("Not let in", true);
    conversations.lost(reason);
    watches.lost(reason);
    voice.silence(reason);
    find("token").focus();
  },
  lost(why) {
    status(`Connection lost: ${why}. Trying again …`, true);
    conversations.lost(why);
    watches.lost(why);
    voice.silence(why);
  },
  async frame(message, jpeg) {
    const arrived = performance.now();
    let bitmap = null;
    try {
      bitmap = await decode(message, jpeg);
    } catch (error) {
      message.error = `the picture can't be shown: ${error.message}`;
    }
    connection.send({ type: "ack", frame: message.number });
    const frame = { ...message, bitmap, shown: arrived };
    live.show(frame);
    if (message.error) live.saySoon(message.error);
    regions.show(frame);
  },
  async still(message, jpeg) {
    const shown = performance.now();
    const bitmap = await decode(message, jpeg).catch(() => null);
    conversations.still({ ...message, shown }, bitmap);
  },
  state(message) {
    health.show(message);
    const { node } = message;
    status(node.there ? `${node.model || "Model unknown"}: ${node.message}` : node.message, !node.there || node.level > 1);
    live.say(message.picture_error);
    voice.show(message.voice);
  },
  asked: (message) => conversations.asked(message),
  text: (message) => conversations.text(message),
  answer: (message) => conversations.answer(message),
  failed: (message) => conversations.failed(message),
  change: (message) => watches.change(message),
  unwatched: (message) => watches.unwatched(message),
  heard: (message) => voice.heard(message),
  reply: (message) => voice.reply(message),
  silence: (message) => voice.silence(message.error),
  evidence: settle,
  corrected: settle,
  rejected(message) {
    if (message.about) settle(message);
    else status(message.error, true);
  },
});
const conversations = new Conversations(find("cards"), find("no-conversation"), connection, announce);
const watches = new Watches(find("watches-list"), find("no-watch"), connection, announce);
const live = new View(find("live-view"), "Live picture", askAboutRegion, askAboutBox);
const regions = new RegionList(find("regions"), find("no-regions"), askAboutRegion, connection);
const health = new Health();
const voice = new Voice(connection);

find("live-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = takeQuestion();
  if (text) conversations.open(live.frame, text);
});

find("watch").addEventListener("click", () => {
  const text = takeQuestion();
  const about = /\bthis\b/i.test(text) ? pointed : null;
  if (!text) find("live-question").focus();
  else if (about?.box) watches.begin(text, [{ box: about.box }]); // later frames have other ids: the node knows "this"
  else watches.begin(about ? aboutRegion(text, about.id) : text);
});

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  find("token-reason").textContent = "";
  connection.enter(find("token").value);
});

const who = find("who");
who.value = localStorage.getItem("who") ?? "";
who.addEventListener("change", () => localStorage.setItem("who", who.value));
