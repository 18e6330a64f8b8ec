// Talking to the robot through this browser's microphone, and what it has heard and said, whoever talked.

const RATE = 16000; // the speech node's; where the browser gives another one, the console converts it
const MOST_LINES = 50;
const WAITING_BYTES = 128 * 1024; // four seconds that the connection has not taken
const LAST_WORD_MS = 250; // buttons are released early
const ANSWER_MS = 20000;
const NO_MICROPHONE = {
  NotAllowedError: "the browser was not allowed to use it",
  NotFoundError: "there is none",
  NotReadableError: "another program has it, or it can't be opened",
};

export class Voice {
  constructor(connection) {
    this.connection = connection;
    this.button = document.getElementById("talk");
    this.status = document.getElementById("talk-status");
    this.log = document.getElementById("spoken");
    this.there = null; // whether there is a speech node
    this.open = null; // what ends the talk
    this.starting = false;
    this.message = "";
    this.button.addEventListener("click", () => (this.open ? this.finish() : this.start()));
  }

  say(text, wrong = false) {
    clearTimeout(this.waiting);
    if (this.status.textContent !== text) this.status.textContent = text;
    this.status.classList.toggle("error", wrong);
  }

  /** What the console says of the speech node, once a second. */
  show({ there, message }) {
    this.button.disabled = !there || this.starting;
    this.message = message;
    if (!there) {
      this.close();
      this.say(`Talking is not possible: ${message}.`);
    } else if (!this.there) {
      this.say("");
    }
    this.there = there;
  }

  async start() {
    this.starting = this.button.disabled = true; // until it is known whether there is a microphone
    try {
      await this.listen();
      this.began = performance.now();
      this.ticking = setInterval(() => this.tick(), 500);
      this.tick();
    } catch (error) {
      this.close();
      this.say(`The microphone can't be used: ${NO_MICROPHONE[error.name] ?? error.message}.`, true);
    }
    this.starting = false;
    this.button.disabled = !this.there;
    this.button.setAttribute("aria-pressed", this.open !== null);
    this.button.textContent = this.open ? "Stop talking" : "Talk";
  }

  async listen() {
    if (!navigator.mediaDevices) {
      throw new Error("the browser gives it to pages of localhost or https alone; reach the console through "
        + `“ssh -L 8450:localhost:${location.port || 80} ${location.hostname}” at http://localhost:8450`);
    }
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true } });
    let context = null;
    this.open = () => {
      for (const track of stream.getTracks()) track.stop();
      context?.close();
    };
    let source = null;
    try {
      context = new AudioContext({ sampleRate: RATE });
      source = context.createMediaStreamSource(stream);
    } catch { // Firefox converts no microphone's rate
      await context?.close();
      context = new AudioContext();
      source = context.createMediaStreamSource(stream);
    }
    await context.audioWorklet.addModule("static/microphone.js");
    const pieces = new AudioWorkletNode(context, "pieces", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    pieces.port.onmessage = ({ data }) => this.send(data);
    for (const track of stream.getTracks()) track.addEventListener("ended", () => this.silence("the microphone has gone"));
    if (!this.connection.send({ type: "talk", on: true, rate: context.sampleRate })) {
      throw new Error("there is no connection to the console");
    }
    source.connect(pieces);
  }

  send(piece) {
    if (!this.open) return;
    if (this.connection.waiting > WAITING_BYTES) this.silence("the connection is too slow for sound");
    else this.connection.sendBytes(piece);
  }

  tick() {
    this.say(this.ending ? "…" : `Listening, ${Math.round((performance.now() - this.began) / 1000)} s`);
  }

  /** The button was pressed again. */
  finish() {
    this.ending ??= setTimeout(() => {
      this.close();
      this.say("Waits for what the robot has understood …");
      this.waiting = setTimeout(() => {
        this.say(`The robot has understood nothing. Its speech node says: ${this.message || "nothing"}.`, true);
      }, ANSWER_MS);
    }, LAST_WORD_MS);
  }

  /** The talk has ended by itself, or could not begin. */
  silence(why) {
    if (!this.open) return;
    this.close();
    this.say(`Talking has ended: ${why}.`, true);
  }

  close() {
    clearInterval(this.ticking);
    clearTimeout(this.ending);
    this.ending = undefined;
    if (!this.open) return;
    this.open();
    this.open = null;
    this.connection.send({ type: "talk", on: false });
    this.button.setAttribute("aria-pressed", "false");
    this.button.textContent = "Talk";
  }

  /** What somebody said to the robot, as it was understood. */
  heard({ text, final, confidence }) {
    if (final) {
      if (!this.open) this.say("");
      this.add(`Heard: ${text}`, confidence ? ` (${Math.round(100 * confidence)} % sure)` : "");
    } else if (!this.open) {
      this.say(`Hears: ${text} …`);
    }
  }

  /** What the robot says. */
  reply({ text }) {
    if (!this.open) this.say("");
    this.add(`Robot: ${text}`);
  }

  add(text, note = "") {
    const line = document.createElement("li");
    line.textContent = text;
    if (note) {
      const quiet = line.appendChild(document.createElement("span"));
      quiet.className = "quiet";
      quiet.textContent = note;
    }
    this.log.append(line);
    if (this.log.childElementCount > MOST_LINES) this.log.firstElementChild.remove();
    this.log.hidden = false;
    this.log.scrollTop = this.log.scrollHeight;
  }
}
