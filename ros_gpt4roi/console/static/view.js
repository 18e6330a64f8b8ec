// A camera frame with its regions on a canvas: shows, highlights, and lets people point at things.

import { arrange } from "./labels.js";

const COLOURS = ["#e64b35", "#007ac2", "#00966e", "#e19600", "#8250b4", "#c83c8c", "#6e6e00", "#008ca0"];
const LIT = "#ffd23f";
const LEAST_DRAG = 6; // pixels of the screen; less is a click
const STEP = 10; // pixels of the frame that an arrow key moves; with Ctrl one

export function colourOf(id) {
  let hash = 0;
  for (const character of id) hash = (hash * 31 + character.codePointAt(0)) >>> 0;
  return COLOURS[hash % COLOURS.length];
}

/** Decodes the picture of a message; crops go to their places on the last picture's ground. */
export async function decode(message, jpeg) {
  if (!jpeg) return null;
  const picture = await createImageBitmap(jpeg);
  if (message.picture !== "crops") return picture;
  const canvas = new OffscreenCanvas(message.width, message.height);
  const context = canvas.getContext("2d");
  context.fillStyle = "#30363c";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (const [x, y, width, height, left, top, wide, high] of message.tiles) {
    context.drawImage(picture, x, y, width, height, left, top, wide, high);
  }
  picture.close();
  return canvas.transferToImageBitmap();
}

export class View {
  /**
   * @param {Element} place Where it goes.
   * @param {string} name For screen readers.
   * @param {function} onRegion Called with the frame and the region that somebody pointed at.
   * @param {function} onDrawn Called with the frame and a box [x1, y1, x2, y2]; a point has x1 = x2, y1 = y2.
   */
  constructor(place, name, onRegion, onDrawn) {
    place.append(document.getElementById("view-template").content.cloneNode(true));
    this.figure = place.querySelector(".view");
    this.canvas = place.querySelector("canvas");
    this.caption = place.querySelector("figcaption");
    this.notice = place.querySelector(".notice");
    this.name = name;
    this.onRegion = onRegion;
    this.onDrawn = onDrawn;
    this.frame = null; // what the server said of it, with `bitmap`, and when it came, `shown`, by performance.now()
    this.waiting = null; // a frame that came while somebody draws
    this.lit = [];
    this.extra = []; // regions that the frame itself does not have
    this.marked = null; // a box that was pointed at
    this.drag = null;
    this.cross = null; // of the keyboard: {x, y, from}
    this.lasting = "";
    this.passing = "";
    this.listen();
    this.describe();
    const ticking = setInterval(() => {
      if (this.figure.isConnected) this.tick();
      else clearInterval(ticking);
    }, 250);
  }

  show(frame) {
    if (this.drag) {
      forget(this.waiting);
      this.waiting = frame;
      return;
    }
    if (this.frame !== frame) forget(this.frame);
    this.frame = frame;
    const [width, height] = frame.width ? [frame.width, frame.height] : this.extent(frame);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.draw();
    this.tick();
  }

  /** Lights regions up; `extra` are regions that the frame itself does not have. */
  light(ids, extra = []) {
    this.lit = ids;
    this.extra = extra;
    this.canvas.dataset.lit = ids.join(" ");
    this.draw();
    this.describe();
  }

  /** Shows what was pointed at last: a box, or nothing. */
  mark(box) {
    this.marked = box;
    this.draw();
  }

  /** Shows a message at the picture until another takes its place. */
  say(text) {
    this.lasting = text;
    this.showNotice();
  }

  // For some seconds: what a pointer did wrong.
  saySoon(text) {
    this.passing = text;
    this.showNotice();
    clearTimeout(this.unsaying);
    this.unsaying = setTimeout(() => {
      this.passing = "";
      this.showNotice();
    }, 5000);
  }

  showNotice() {
    const text = this.passing || this.lasting;
    if (this.notice.textContent !== text) this.notice.textContent = text;
    this.notice.hidden = !text;
  }

  regions() {
    if (!this.frame) return [];
    return [...new Map([...this.extra, ...this.frame.regions].map((region) => [region.id, region])).values()];
  }

  extent(frame) {
    const right = Math.max(this.canvas.width, ...frame.regions.map((region) => Math.ceil(region.box[2])));
    const bottom = Math.max(this.canvas.height, ...frame.regions.map((region) => Math.ceil(region.box[3])));
    return [Math.min(right, 8192), Math.min(bottom, 8192)];
  }

  describe() {
    const lit = this.lit.length ? `, lit: region ${this.lit.join(", region ")}` : "";
    this.canvas.setAttribute("aria-label", `${this.name}${lit}. Arrow keys move a cross, Enter asks about what is under`
      + " it, Space begins a box that Enter ends, Escape gives up. All regions are also in the list of regions.");
  }

  tick() {
    if (!this.frame) return;
    const age = this.frame.age_s + (performance.now() - this.frame.shown) / 1000;
    const level = this.frame.picture === "crops" ? " · slow connection: the regions alone" : "";
    const missing = this.frame.width ? level : " · without its picture";
    this.caption.textContent = `as of ${age < 10 ? age.toFixed(1) : Math.round(age)} s ago${missing}`;
  }

  // Drawing

  draw() {
    const { canvas, frame } = this;
    const context = canvas.getContext("2d");
    context.fillStyle = "#30363c";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!frame) return;
    if (frame.bitmap) context.drawImage(frame.bitmap, 0, 0, canvas.width, canvas.height);
    const scale = Math.max(1, canvas.width / 640);
    const regions = this.regions();
    for (const region of regions) {
      const lit = this.lit.includes(region.id);
      context.setLineDash(region.drawn ? [6 * scale, 4 * scale] : []);
      context.lineWidth = (lit ? 5 : 2) * scale;
      context.strokeStyle = lit ? LIT : colourOf(region.id);
      const [x1, y1, x2, y2] = region.box;
      context.strokeRect(x1, y1, Math.max(x2 - x1, 4), Math.max(y2 - y1, 4));
      if (lit) {
        context.fillStyle = "rgb(255 210 63 / 25%)";
        context.fillRect(x1, y1, Math.max(x2 - x1, 4), Math.max(y2 - y1, 4));
      }
    }
    context.setLineDash([]);
    this.label(context, regions, scale);
    this.drawPointer(context, scale);
  }

  label(context, regions, scale) {
    const size = Math.round(13 * scale);
    const border = 3 * scale;
    context.font = `${size}px system-ui, sans-serif`;
    context.textBaseline = "top";
    const isLit = (region) => this.lit.includes(region.id);
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    // A small box leaves its text the fewest places.
    const order = [...regions].sort((one, other) => isLit(other) - isLit(one) || area(one) - area(other));
    const widthOf = (text) => context.measureText(text).width + 2 * border;
    for (const { region, text, place: [x1, y1, x2, y2] } of arrange(order, widthOf, size + 4 * scale,
      [this.canvas.width, this.canvas.height])) {
      context.fillStyle = isLit(region) ? LIT : colourOf(region.id);
      context.fillRect(x1, y1, x2 - x1, y2 - y1);
      context.fillStyle = isLit(region) ? "#000" : "#fff";
      context.fillText(text, x1 + border, y1 + 2 * scale, x2 - x1 - 2 * border);
    }
  }

  drawPointer(context, scale) {
    const box = this.drag ? boxOf(this.drag.from, this.drag.to)
      : this.cross?.from ? boxOf(this.cross.from, this.cross) : this.marked;
    context.strokeStyle = "#fff";
    context.lineWidth = 2 * scale;
    if (box) {
      context.setLineDash([5 * scale, 4 * scale]);
      context.strokeRect(box[0], box[1], Math.max(box[2] - box[0], 4), Math.max(box[3] - box[1], 4));
      context.setLineDash([]);
    }
    if (this.cross) {
      const { x, y } = this.cross;
      context.beginPath();
      context.moveTo(x - 12 * scale, y);
      context.lineTo(x + 12 * scale, y);
      context.moveTo(x, y - 12 * scale);
      context.lineTo(x, y + 12 * scale);
      context.stroke();
    }
  }

  // Pointing

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      this.drag.to = this.clamp(this.place(event));
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => this.release(null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.cross = null;
      this.draw();
    });
  }

  // In pixels of the frame. The canvas's content keeps its shape: there may be room beside it, or above and below it.
  place(event) {
    const shown = this.canvas.getBoundingClientRect();
    const scale = Math.min(shown.width / this.canvas.width, shown.height / this.canvas.height);
    return {
      x: (event.clientX - shown.left - (shown.width - scale * this.canvas.width) / 2) / scale,
      y: (event.clientY - shown.top - (shown.height - scale * this.canvas.height) / 2) / scale,
    };
  }

  clamp({ x, y }) {
    return { x: Math.min(Math.max(x, 0), this.canvas.width), y: Math.min(Math.max(y, 0), this.canvas.height) };
  }

  press(event) {
    const from = this.place(event);
    const inside = this.clamp(from);
    if (!this.frame) {
      this.saySoon("There is no picture yet to point at.");
    } else if (from.x !== inside.x || from.y !== inside.y) {
      this.saySoon("That place is outside the picture.");
    } else {
      this.canvas.setPointerCapture(event.pointerId);
      this.drag = { from, to: from, startX: event.clientX, startY: event.clientY };
    }
  }

  release(event) {
    const drag = this.drag;
    this.drag = null;
    if (drag && event) {
      const moved = Math.hypot(event.clientX - drag.startX, event.clientY - drag.startY);
      if (moved < LEAST_DRAG) this.point(drag.from);
      else this.pointAt(boxOf(drag.from, drag.to));
    }
    if (this.waiting) {
      const waiting = this.waiting;
      this.waiting = null;
      this.show(waiting);
    } else {
      this.draw();
    }
  }

  // The smallest region there; outside all of them the point itself.
  point({ x, y }) {
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    const there = this.regions().filter(({ box }) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3])
      .sort((one, other) => area(one) - area(other));
    if (there.length) this.onRegion(this.frame, there[0]);
    else this.pointAt([x, y, x, y]);
  }

  // Descriptions may come before their picture, and its size with it: until then the canvas has another one.
  pointAt(box) {
    if (this.frame.width) this.onDrawn(this.frame, box);
    else this.saySoon("Its picture has not come yet: only regions can be pointed at.");
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.frame) return;
    this.cross ??= { x: this.canvas.width / 2, y: this.canvas.height / 2, from: null };
    const move = moves[event.key];
    if (move) {
      const step = event.ctrlKey ? 1 : STEP * Math.max(1, this.canvas.width / 640);
      Object.assign(this.cross, this.clamp({ x: this.cross.x + step * move[0], y: this.cross.y + step * move[1] }));
    } else if (event.key === " ") {
      this.cross.from = { x: this.cross.x, y: this.cross.y };
    } else if (event.key === "Enter") {
      const { x, y, from } = this.cross;
      this.cross.from = null; // first: whoever is called may take the focus, and so the cross, away
      if (from && (from.x !== x || from.y !== y)) {
        this.pointAt(boxOf(from, { x, y }));
      } else {
        this.point({ x, y });
      }
    } else if (event.key === "Escape") {
      this.cross = null;
    } else {
      return;
    }
    event.preventDefault();
    this.draw();
  }
}

// Gives a picture's memory back at once; those beside conversations are kept.
function forget(frame) {
  if (frame?.bitmap && !frame.kept) frame.bitmap.close();
}

function boxOf(one, other) {
  return [Math.min(one.x, other.x), Math.min(one.y, other.y), Math.max(one.x, other.x), Math.max(one.y, other.y)];
}
