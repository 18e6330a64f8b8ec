// The page: one record after another, by keyboard. What is to come next is loaded while a record is looked at.

import { showEvidence } from "/console/evidence.js";
import { picture, post, Refused, Saver } from "./api.js";
import { Items } from "./items.js";
import { Picture } from "./picture.js";

const find = (id) => document.getElementById(id);
const SIGN_OF_LIFE_MS = 15_000; // a quarter of what the server waits for
const MOST_UNDOS = 500;

let current = null; // the record that is looked at
let selected = 0; // its region or conversation
let redrawn = null; // the region whose box is drawn anew
let coming = null; // a promise of the next record
let moving = false;
let ended = false; // nothing is left, and `current` was the last
let counts = {};
let judged = 0; // records in this session, since `began`
let began = 0;
const trail = []; // ids of the records that were shown, and which of them is
let step = -1;
const undos = []; // {id, edits, verdict}
const redos = [];

const KEYS = [
  ["Enter", "accept the picture as it is shown, and go on", accept],
  ["r", "reject the picture: it is left out of the data", reject],
  ["n, →", "next, without a verdict", () => go(1), ["n", "ArrowRight"]],
  ["p, ←", "previous", () => go(-1), ["p", "ArrowLeft"]],
  ["j, ↓", "next region or conversation", () => choose(selected + 1), ["j", "ArrowDown"]],
  ["k, ↑", "region or conversation before", () => choose(selected - 1), ["k", "ArrowUp"]],
  ["e", "edit its name, or the answer; Enter ends, Escape gives up", () => enter(".name, .answer-text")],
  ["d", "edit its description, or the question", () => enter(".description, .question-text")],
  ["t", "edit its attributes", () => enter(".attributes")],
  ["x", "its text is wrong, and what is right is not known", toggleWrong],
  ["Delete", "take it away", remove, ["Delete", "Backspace"]],
  ["b", "draw a region: arrows move (with Ctrl by pixels), Space begins, Enter ends; or with the mouse", () => draw(null)],
  ["m", "draw the box of the selected region anew", () => draw(region()?.id ?? null)],
  ["z", "undo", () => undo(undos, redos)],
  ["y", "redo", () => undo(redos, undos)],
  ["v", "why: the records that the selected region resembles most", why],
  ["w", "write what was reviewed into records.jsonl; the file before is kept", write],
  ["?", "these keys", () => find("help").showModal()],
];
const actions = new Map(KEYS.flatMap(([label, , act, keys = [label]]) => keys.map((key) => [key, act])));

// What is shown

function say(text) {
  find("message").textContent = text;
  find("message").hidden = !text;
}

function tell(text, lost = false) {
  find("connection").textContent = text;
  find("connection").classList.toggle("lost", lost);
}

function tellCounts() {
  const { open = 0, accepted = 0, rejected = 0 } = counts;
  const hours = (performance.now() - began) / 3_600_000;
  const rate = judged > 2 ? ` · ${Math.round(judged / hours)} an hour` : "";
  tell(`${accepted + rejected} of ${open + accepted + rejected} reviewed${rate}`);
  find("end-counts").textContent = `${accepted} accepted, ${rejected} rejected`
    + (open ? `; ${open} were skipped, or others look at them: n looks for them again.` : ".");
}

function render(field = "") {
  const { regions, conversations } = current.edits;
  selected = Math.max(0, Math.min(selected, regions.length + conversations.length - 1));
  find("title").textContent = current.verdict ? `${current.file}: ${current.verdict} by ${current.who || "somebody"}` : current.file;
  find("reasons").textContent = [...current.reasons, ...current.problems.map((text) => `cannot be read, and is lost when the`
    + ` picture is accepted: ${text}`)].join(" · ");
  find("nothing").hidden = regions.length > 0;
  items.show(current);
  items.select(selected, field);
  view.showRecord(current, region()?.id ?? null);
}

function region() {
  return current?.edits.regions[selected] ?? null;
}

// From record to record

async function load(message) {
  const { record, counts: now } = await post("api/open", message);
  counts = now;
  if (!record) return null;
  try {
    record.bitmap = await picture(record.id);
  } catch (error) {
    record.bitmap = null;
    record.pictureError = error instanceof Refused ? error.message : "the picture can't be shown: it is damaged";
  }
  return record;
}

// What waits to be saved still counts as open on the server.
function loadNext(after, but = []) {
  return load({ after, but: [...but, ...saver.pending()] });
}

function comeNext() {
  coming = loadNext(current?.rank ?? null, current ? [current.id] : []);
  coming.catch(() => {}); // whoever awaits it hears of it
}

async function go(by) {
  if (moving) return;
  moving = true;
  try {
    const back = ended && by < 0;
    const known = back ? current?.id : trail[step + by];
    if (by < 0 && known === undefined) return say("This is the first record that was shown.");
    let record;
    if (known !== undefined) {
      await saver.settled();
      record = await load({ id: known });
    } else {
      record = ended ? await loadNext(null) : await coming ?? await loadNext(current?.rank ?? null, [current?.id ?? 0]);
    }
    if (!record) return end();
    if (!back) step += by;
    if (known === undefined) trail.push(record.id);
    look(record);
  } catch (error) {
    failed(error);
    coming = null;
  } finally {
    moving = false;
  }
}

function look(record) {
  current?.bitmap?.close();
  current = record;
  selected = 0;
  redrawn = null;
  ended = false;
  find("end").hidden = true;
  find("review").hidden = false;
  say(record.holder ? `${record.holder} has this record at the moment; changes are not taken.` : "");
  if (record.lost) {
    undos.push({ id: record.id, edits: record.lost, verdict: "" });
    say("This record was changed on disk after it was reviewed. It is shown as it is there; z brings the review back.");
  }
  document.activeElement?.blur();
  render();
  tellCounts();
  comeNext();
}

function end() {
  ended = true;
  document.activeElement?.blur();
  find("review").hidden = true;
  find("end").hidden = false;
  tellCounts();
}

function failed(error) {
  if (error.status !== 401) {
    say(error.message);
    tell(error.message, true);
    return;
  }
  find("token-form").hidden = false;
  find("token-reason").textContent = sessionStorage.getItem("token") ? "That is not the token of this page." : "";
  tell("Not let in", true);
  find("token").focus();
}

// Changes

const saver = new Saver(refused, (done, error = "", now = counts) => {
  counts = now;
  find("saved").textContent = error ? `not saved: ${error}` : done ? "saved" : "saving …";
  find("saved").classList.toggle("lost", Boolean(error));
  if (done) tellCounts();
});

function remember() {
  undos.push({ id: current.id, edits: structuredClone(current.edits), verdict: current.verdict });
  undos.splice(0, undos.length - MOST_UNDOS);
  redos.length = 0;
}

function change(act, field = "") {
  remember();
  act(current.edits);
  render(field);
  saver.save(current);
}

async function refused(record, error) {
  let shown = record;
  if (record !== current) {
    shown = await load({ id: record.id }).catch(() => null);
    if (!shown) return failed(error);
    trail.splice(step, 0, shown.id); // what was looked at comes again
    look(shown);
  }
  if (error.status === 422) { // it can't be accepted like this
    Object.assign(shown, { edits: record.edits, verdict: "" });
    render();
    say(`Not accepted: ${error.message}`);
    return;
  }
  undos.push({ id: record.id, edits: record.edits, verdict: record.verdict });
  const { version, edits, verdict, who, said, outlines } = error.record;
  Object.assign(shown, { version, edits, verdict, who, said, outlines });
  render();
  say(`Not saved: ${error.message}. What is shown is theirs; z brings yours back.`);
}

async function undo(from, to) {
  const state = from.pop();
  if (!state) return say("There is nothing more.");
  if (current?.id !== state.id || ended) {
    await saver.settled();
    const record = await load({ id: state.id }).catch(failed);
    if (!record) return;
    trail.splice(++step, 0, record.id);
    look(record);
  }
  to.push({ id: current.id, edits: structuredClone(current.edits), verdict: current.verdict });
  current.edits = structuredClone(state.edits);
  current.verdict = state.verdict;
  say("");
  render();
  saver.save(current);
}

function decide(verdict) {
  if (moving) return;
  remember();
  judged += current.verdict ? 0 : 1;
  current.verdict = verdict;
  saver.save(current);
  go(1);
}

function accept() {
  decide("accepted");
}

function reject() {
  decide("rejected");
}

function choose(place) {
  const most = current.edits.regions.length + current.edits.conversations.length - 1;
  selected = Math.max(0, Math.min(place, most));
  items.select(selected);
  view.showRecord(current, region()?.id ?? null);
}

function enter(field) {
  items.select(selected, field);
}

function thing(edits) {
  return edits.regions[selected] ?? edits.conversations[selected - edits.regions.length];
}

function toggleWrong() {
  if (!thing(current.edits)) return;
  change((edits) => { thing(edits).wrong = !thing(edits).wrong; });
}

function remove() {
  if (!thing(current.edits)) return;
  change((edits) => {
    const regions = edits.regions.length;
    if (selected < regions) edits.regions.splice(selected, 1);
    else edits.conversations.splice(selected - regions, 1);
  });
}

function draw(id) {
  redrawn = id;
  view.begin();
}

function drawn(frame, box) {
  view.canvas.blur();
  if (box[0] === box[2] || box[1] === box[3]) return view.saySoon("A box needs a width and a height.");
  const id = redrawn;
  redrawn = null;
  if (id !== null) {
    change((edits) => { edits.regions.find((other) => other.id === id).box = box; });
    return;
  }
  const taken = new Set([...current.edits.regions.map((other) => other.id), ...Object.keys(current.said.regions)]);
  let number = 1;
  while (taken.has(String(number))) number += 1;
  selected = current.edits.regions.length;
  change((edits) => edits.regions.push({ id: String(number), box, name: "", attributes: {}, description: "", wrong: false }),
    ".name");
}

async function why() {
  if (!region()) return;
  try {
    const { records } = await post("api/evidence", { id: current.id, region: region().id });
    find("evidence-title").textContent = `What region ${region().id} resembles`;
    showEvidence(find("evidence-records"), records);
    find("evidence").showModal();
  } catch (error) {
    failed(error);
  }
}

async function write() {
  try {
    await saver.settled();
    const reply = await post("api/export", {});
    ({ counts } = reply);
    items.know(reply.names);
    const record = current && !ended ? await load({ id: current.id }).catch(() => null) : null; // it is another version now
    if (record) look(record);
    else end();
    tell(`Written: ${Object.entries(reply.done).map(([what, count]) => `${count} ${what}`).join(", ") || "nothing"}.`);
  } catch (error) {
    failed(error);
  }
}

// Keys

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || document.querySelector("dialog[open]") || find("review").hidden && find("end").hidden) return;
  if (event.target.matches("input")) {
    if (event.key === "Enter" || event.key === "Escape") {
      event.preventDefault();
      event.target.blur();
      if (event.key === "Enter" && event.ctrlKey) accept();
    }
    return;
  }
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("button") && event.key === "Enter") return;
  const act = actions.get(event.key);
  if (!act || find("review").hidden && !["p", "ArrowLeft", "n", "ArrowRight", "w", "z", "?"].includes(event.key)) return;
  event.preventDefault();
  if (event.target === view.canvas) view.canvas.blur();
  act();
});

for (const [label, text] of KEYS) {
  const key = document.createElement("dt");
  key.appendChild(document.createElement("kbd")).textContent = label;
  const meaning = document.createElement("dd");
  meaning.textContent = text;
  find("keys").append(key, meaning);
}
find("help-button").addEventListener("click", () => find("help").showModal());

const view = new Picture(find("view"), "Picture of the record",
  (frame, { id }) => {
    view.canvas.blur();
    choose(current.edits.regions.findIndex((other) => other.id === id));
  }, drawn);
const items = new Items(find("items"), remember, () => {
  view.showRecord(current, region()?.id ?? null);
  saver.save(current);
}, (place) => { if (place !== selected) choose(place); });

setInterval(async () => {
  const next = await Promise.resolve(coming).catch(() => null);
  if (current) post("api/keep", { ids: [current.id, ...next ? [next.id] : []] }).catch(() => {});
}, SIGN_OF_LIFE_MS);
addEventListener("pagehide", () => { post("api/keep", { ids: [] }, { keepalive: true }).catch(() => {}); });

// The address that the terminal shows holds the token behind a #, which no server gets to see.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}

async function begin() {
  try {
    const overview = await post("api/begin", {});
    find("token-form").hidden = true;
    ({ counts } = overview);
    items.know(overview.names);
    began = performance.now();
    comeNext();
    await go(1);
    if (overview.problems.length) say(`Left out: ${overview.problems.join("; ")}`);
  } catch (error) {
    failed(error);
  }
}

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", find("token").value);
  begin();
});
const who = find("who");
who.value = localStorage.getItem("who") ?? "";
who.addEventListener("change", () => localStorage.setItem("who", who.value));

begin();
