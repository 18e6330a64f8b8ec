// The websocket: opens it again when it breaks, shows the token, and takes messages apart.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;
const WRONG_TOKEN = 4401;
const FULL = 4429;
const TOO_BIG = 1009;

export class Connection {
  /**
   * @param {Object<string, function>} on Receivers by type of message; of pictures with the message and a Blob. Beside
   *     those of the server: `open`, `lost` with the reason, `token` with the reason that one is asked for.
   */
  constructor(on) {
    this.on = on;
    this.wait = FIRST_WAIT_MS;
    this.refusal = "";
    this.connect();
  }

  connect() {
    clearTimeout(this.timer);
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws`);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.send({ type: "hello", token: sessionStorage.getItem("token") ?? "" });
    socket.onmessage = (event) => this.receive(event.data);
    socket.onclose = (event) => this.closed(event.code);
  }

  /** Sends a message; returns whether there was a connection to send it on. */
  send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  /** Sends sound. */
  sendBytes(bytes) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  /** How many bytes wait for the connection to take them. */
  get waiting() {
    return this.socket.bufferedAmount;
  }

  enter(token) {
    sessionStorage.setItem("token", token);
    this.connect();
  }

  receive(data) {
    if (typeof data !== "string") {
      const length = new DataView(data).getUint32(0, true);
      const message = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      const jpeg = data.byteLength > 4 + length ? new Blob([data.slice(4 + length)], { type: "image/jpeg" }) : null;
      this.on[message.type](message, jpeg);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "refused") {
      this.refusal = message.reason;
    } else if (message.type === "ping") {
      this.send({ type: "pong", frame: message.frame });
    } else {
      if (message.type === "welcome") this.wait = FIRST_WAIT_MS;
      this.on[message.type](message);
    }
  }

  closed(code) {
    const refusal = this.refusal;
    this.refusal = "";
    if (code === WRONG_TOKEN) {
      this.on.token(refusal);
      return;
    }
    const why = code === TOO_BIG ? "a message was too large for the console" : refusal || "the console does not answer";
    this.on.lost(why);
    if (code === FULL) this.wait = LONGEST_WAIT_MS;
    this.timer = setTimeout(() => this.connect(), this.wait);
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
  }
}
