// Conversations side by side: each beside the picture that it is about, with its questions and answers.

import { addVerdict } from "./verdict.js";
import { View } from "./view.js";

const MOST_CARDS = 12;
const MOST_TURNS = 100;
const WORDS = {
  CANCELED: "Stopped", TIMEOUT: "Out of time", NO_FRAME: "No picture", UNKNOWN_REGION: "Unknown region",
  OVERLOADED: "Too many questions", INVALID: "Not understood", FAILED: "Failed",
};
let count = 0;

/** Why an answer is none, or was cut; "" for one that is whole. */
function problem({ status, error }) {
  return status === "OK" ? error : `${WORDS[status] ?? status}: ${error}`;
}

/** What an answer says, or why it says nothing. */
export function said(answer) {
  return answer.status === "OK" ? answer.text : problem(answer);
}

/** A question about one region: "this" and "it" mean that one; a question without them is told which. */
export function aboutRegion(question, id) {
  const text = question.trim();
  if (!text) return `Describe region ${id}.`;
  const pointed = text.replace(/\b(this( region| one)?|it)\b/i, () => `region ${id}`);
  return pointed !== text || /\bregion\b/i.test(text) ? pointed : `Region ${id}: ${text}`;
}

/** The smallest number that no region of a frame has. */
export function freeId(regions) {
  const taken = new Set(regions.map((region) => region.id));
  let number = 1;
  while (taken.has(String(number))) number += 1;
  return String(number);
}

export class Conversations {
  constructor(place, empty, connection, announce) {
    Object.assign(this, { place, empty, connection, announce, cards: [], turns: new Map() });
  }

  /** Opens a conversation about a frame; `boxes` are drawn ones, [{id, box}]. Without a frame: about the newest. */
  open(frame, text, boxes = []) {
    const card = new Card(this, text);
    this.cards.unshift(card);
    this.place.prepend(card.element);
    this.empty.hidden = true;
    while (this.cards.length > MOST_CARDS) this.close(this.cards.at(-1));
    if (frame) {
      frame.kept = true;
      card.show(frame, boxes);
    }
    card.ask(text, boxes, frame?.stamp ?? "");
    return card;
  }

  close(card) {
    for (const turn of card.turns) {
      if (turn.open && !turn.held) this.connection.send({ type: "cancel", ask: turn.name });
      this.turns.delete(turn.name);
    }
    card.element.remove();
    this.cards = this.cards.filter((other) => other !== card);
    this.empty.hidden = this.cards.length > 0;
  }

  asked(message) {
    this.turns.get(message.ask)?.card.asked(message);
  }

  still(message, bitmap) {
    const card = this.turns.get(message.ask)?.card;
    card?.view.say(message.error ?? "");
    card?.show({ ...message, bitmap, kept: true });
  }

  text(message) {
    this.turns.get(message.ask)?.append(message.piece);
  }

  answer(message) {
    this.turns.get(message.ask)?.end(message);
  }

  failed(message) {
    this.turns.get(message.ask)?.fail("FAILED", message.error);
  }

  /** The connection broke: nothing will come any more of what is open. */
  lost(why) {
    for (const turn of this.turns.values()) {
      if (turn.open) this.failed({ ask: turn.name, error: `the connection broke: ${why}` });
    }
  }
}

class Card {
  constructor(all, title) {
    this.all = all;
    this.element = document.getElementById("card-template").content.cloneNode(true).firstElementChild;
    this.element.querySelector("h3").textContent = title;
    this.conversation = "";
    this.turns = [];
    this.joined = []; // regions that the frame itself does not have: drawn ones, and those that answers have found
    this.view = new View(this.element.querySelector(".card-view"), `Picture of the conversation “${title}”`,
      (frame, region) => this.ask(aboutRegion(this.take(), region.id)),
      (frame, box) => {
        const id = freeId([...this.view.regions(), ...this.joined]);
        this.ask(aboutRegion(this.take(), id), [{ id, box }]);
      });
    this.element.querySelector(".close").addEventListener("click", () => {
      const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
      all.close(this);
      (next ?? document.getElementById("live-question")).focus();
    });
    this.input = this.element.querySelector(".composer input");
    this.element.querySelector(".composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.input.value.trim()) this.ask(this.take());
    });
  }

  take() {
    const text = this.input.value.trim();
    this.input.value = "";
    return text;
  }

  show(frame, boxes = []) {
    this.joined.push(...boxes.map((box) => ({ ...box, drawn: true })));
    this.view.show(frame);
    this.view.light(boxes.map((box) => box.id), this.joined);
  }

  join(regions) {
    const known = new Set([...this.view.regions(), ...this.joined].map((region) => region.id));
    this.joined.push(...regions.filter((region) => !known.has(region.id))
      .map(({ id, box, label }) => ({ id, box, text: label })));
  }

  ask(text, boxes = [], stamp = this.view.frame?.stamp ?? "") {
    if (this.turns.length && boxes.length) this.joined.push(...boxes.map((box) => ({ ...box, drawn: true })));
    if (boxes.length) this.view.light(boxes.map((box) => box.id), this.joined);
    const turn = new Turn(this, text);
    this.turns.push(turn);
    if (this.turns.length > MOST_TURNS) this.turns.shift().remove();
    this.all.turns.set(turn.name, turn);
    this.element.querySelector(".turns").append(turn.element);
    turn.held = { type: "ask", ask: turn.name, text, stamp, boxes };
    this.sendHeld();
    turn.element.scrollIntoView({ block: "nearest" });
  }

  // The first answer names the conversation; until it has ended, what is asked after it waits.
  sendHeld() {
    for (const turn of this.turns.filter((other) => other.held)) {
      if (!this.conversation && this.turns.some((other) => other.open && !other.held)) return;
      turn.send();
    }
  }

  asked(message) {
    if (this.view.frame?.stamp === message.stamp) return;
    this.view.say("The picture is on its way.");
  }
}

class Turn {
  constructor(card, question) {
    this.card = card;
    this.question = question;
    this.name = `question ${count++}`;
    this.open = true;
    this.held = null; // the message that asks it, until it is sent
    this.element = document.getElementById("turn-template").content.cloneNode(true).firstElementChild;
    this.element.classList.add("open");
    this.find(".question").textContent = question;
    this.asked = performance.now();
    this.find(".cancel").addEventListener("click", () => {
      if (this.held) this.fail("CANCELED", "before it was sent");
      else card.all.connection.send({ type: "cancel", ask: this.name });
    });
  }

  send() {
    const { card, held } = this;
    this.held = null;
    this.asked = performance.now();
    const message = { ...held, conversation: card.conversation, stamp: held.stamp || (card.view.frame?.stamp ?? "") };
    if (!card.all.connection.send(message)) this.fail("FAILED", "there is no connection to the console");
  }

  fail(status, error) {
    this.end({ status, text: "", error, regions: [], region_ids: [] });
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  remove() {
    this.card.all.turns.delete(this.name);
    this.element.remove();
  }

  append(piece) {
    this.first ??= performance.now() - this.asked;
    this.find(".answer").append(piece);
  }

  end(answer) {
    if (!this.open) return;
    this.open = false;
    this.held = null;
    const { card } = this;
    const hadFocus = document.activeElement === this.find(".cancel");
    this.element.classList.remove("open");
    this.find(".cancel").remove();
    if (hadFocus) card.input.focus();
    if (answer.text) this.find(".answer").textContent = answer.text;
    card.conversation = answer.conversation || card.conversation;
    card.sendHeld();
    const error = this.find(".error");
    error.textContent = problem(answer);
    error.hidden = !error.textContent;
    card.join(answer.regions);
    if (answer.status !== "OK") return;
    const ms = Math.round(this.first ?? performance.now() - this.asked);
    const ids = answer.region_ids;
    this.find(".about").textContent = [ids.length ? `region ${ids.join(", region ")}` : "",
      `${Math.round(100 * answer.confidence)} % sure`, `first word after ${ms} ms`].filter(Boolean).join(" · ");
    this.light(answer);
    card.all.announce(`${this.question} – ${answer.text}`);
    addVerdict(this.find(".verdict"), `the answer to “${this.question}”`, () => ({
      kind: "answer", stamp: answer.stamp, frame_id: answer.frame_id, said: answer.text, question: this.question,
      query_id: answer.query_id, conversation: answer.conversation,
      regions: answer.regions.filter(({ id }) => ids.includes(id)).slice(0, 16).map(({ id, box }) => ({ id, box })),
    }), card.all.connection);
    // A picture may show the regions of an earlier answer again.
    this.element.addEventListener("mouseenter", () => this.light(answer));
    this.element.addEventListener("focusin", () => this.light(answer));
  }

  light(answer) {
    this.card.view.light(answer.region_ids, this.card.joined);
  }
}
