// Requests to the server. Changes are saved one after another; of a record that waits, the newest state is sent.

const session = crypto.getRandomValues(new Uint32Array(4)).join("-");
const RETRY_MS = 1000;

/** A request that was refused: `status` of HTTP (0: no answer), and the record, where another has changed it. */
export class Refused extends Error {
  constructor(message, status, record) {
    super(message);
    this.status = status;
    this.record = record;
  }
}

function headers() {
  return { Authorization: `Bearer ${sessionStorage.getItem("token") ?? ""}` };
}

async function request(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Refused("the server does not answer", 0);
  }
  if (reply.ok) return reply;
  const body = await reply.json().catch(() => ({}));
  throw new Refused(body.detail ?? `the server says ${reply.status}`, reply.status, body.record);
}

export async function post(path, message, options = {}) {
  const who = localStorage.getItem("who") ?? "";
  const body = JSON.stringify({ session, who, ...message });
  return (await request(path, { method: "POST", headers: headers(), body, ...options })).json();
}

/** A record's picture. Throws an error that says why there is none. */
export async function picture(id) {
  const reply = await request(`api/picture/${id}`, { headers: headers() });
  return createImageBitmap(await reply.blob());
}

export class Saver {
  /**
   * @param {function} onRefused Called with a record and why it was not taken.
   * @param {function} onState Called with whether all is saved, what went wrong, and the counts of records.
   */
  constructor(onRefused, onState) {
    this.onRefused = onRefused;
    this.onState = onState;
    this.waiting = new Map(); // record → what is sent of it
    this.sending = null;
    this.running = Promise.resolve();
  }

  /** Ids of the records that are not saved yet. */
  pending() {
    return [...this.waiting.keys(), ...this.sending ? [this.sending] : []].map((record) => record.id);
  }

  /** Resolves once all is saved: a record that is loaded then has its newest version. */
  settled() {
    return this.running;
  }

  save(record) {
    this.waiting.set(record, structuredClone({ edits: record.edits, verdict: record.verdict }));
    this.onState(false);
    if (!this.sending) this.running = this.run();
  }

  async run() {
    while (this.waiting.size) {
      const [record, state] = this.waiting.entries().next().value;
      this.waiting.delete(record);
      this.sending = record;
      try {
        const reply = await post("api/save", { id: record.id, version: record.version, ...state });
        record.version = reply.version;
        this.onState(!this.waiting.size, "", reply.counts);
      } catch (error) {
        if (error.status === 409 || error.status === 422) {
          this.waiting.delete(record);
          this.onRefused(record, error);
          this.onState(!this.waiting.size);
        } else {
          if (!this.waiting.has(record)) this.waiting.set(record, state);
          this.onState(false, error.message);
          await new Promise((done) => setTimeout(done, RETRY_MS));
        }
      }
      this.sending = null;
    }
  }
}
