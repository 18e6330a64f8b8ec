// Questions that are asked again and again: what each one's answer is now, and how it changed.

import { said } from "./conversations.js";

const MOST_LINES = 100; // of one watch's log
const MOST_WATCHES = 16; // that are shown, those that have ended among them
let count = 0;

export class Watches {
  constructor(list, empty, connection, announce) {
    Object.assign(this, { list, empty, connection, announce, watches: new Map() });
  }

  /** Begins to watch; `boxes` are what "this" means in the question, [{box}], on every picture at the same place. */
  begin(text, boxes = []) {
    const watch = new Watch(this, text);
    this.watches.set(watch.name, watch);
    this.list.prepend(watch.element);
    this.empty.hidden = true;
    const ended = [...this.watches.values()].find((other) => !other.open);
    if (this.watches.size > MOST_WATCHES && ended) ended.remove();
    if (!this.connection.send({ type: "watch", watch: watch.name, text, boxes })) {
      watch.end("there is no connection to the console");
    }
  }

  change(message) {
    this.watches.get(message.watch)?.change(message);
  }

  unwatched(message) {
    this.watches.get(message.watch)?.end(message.error);
  }

  /** The connection broke: the console has ended them. */
  lost(why) {
    for (const watch of this.watches.values()) {
      if (watch.open) watch.end(`the connection broke: ${why}`);
    }
  }
}

class Watch {
  constructor(all, question) {
    this.all = all;
    this.question = question;
    this.name = `watch ${count++}`;
    this.open = true;
    this.stopped = false;
    this.changes = -1; // the first answer is none
    this.element = document.getElementById("watch-template").content.cloneNode(true).firstElementChild;
    this.find(".question").textContent = question;
    this.find(".answer").textContent = "Waits for a picture with regions …";
    this.find(".stop").setAttribute("aria-label", `Stop watching “${question}”`);
    this.find(".stop").addEventListener("click", () => this.stop());
    this.ticking = setInterval(() => this.tick(), 1000);
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  // What has ended goes; the page may have no connection any more.
  stop() {
    this.stopped = true;
    if (!this.open) this.remove();
    else if (!this.all.connection.send({ type: "unwatch", watch: this.name })) this.end("");
  }

  remove() {
    clearInterval(this.ticking);
    const hadFocus = this.element.contains(document.activeElement);
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    this.element.remove();
    this.all.watches.delete(this.name);
    this.all.empty.hidden = this.all.watches.size > 0;
    if (hadFocus) (next?.querySelector(".stop") ?? document.getElementById("live-question")).focus();
  }

  change({ answer }) {
    this.changes += 1;
    this.told = performance.now();
    const text = said(answer);
    this.find(".answer").textContent = text;
    const line = document.createElement("li");
    const time = line.appendChild(document.createElement("time"));
    const now = new Date();
    time.dateTime = now.toISOString();
    time.textContent = now.toLocaleTimeString();
    line.append(` ${text}`);
    const log = this.find(".changes");
    log.prepend(line);
    if (log.childElementCount > MOST_LINES) log.lastElementChild.remove();
    this.element.classList.toggle("changed", this.changes > 0);
    this.all.announce(`${this.question} – ${text}`);
    this.tick();
  }

  tick() {
    if (!this.open || this.told === undefined) return;
    const age = Math.round((performance.now() - this.told) / 1000);
    this.find(".about").textContent = this.changes > 0
      ? `changed ${this.changes} time${this.changes > 1 ? "s" : ""}, last ${age} s ago` : `first said ${age} s ago`;
  }

  end(error) {
    this.open = false;
    clearInterval(this.ticking);
    if (this.stopped) {
      this.remove();
      return;
    }
    this.find(".stop").textContent = "Remove";
    this.find(".stop").setAttribute("aria-label", `Remove the watch “${this.question}”, which has ended`);
    this.find(".about").textContent = "";
    this.find(".error").hidden = false;
    this.find(".error").textContent = `Ended: ${error || "its time is over"}`;
  }
}
