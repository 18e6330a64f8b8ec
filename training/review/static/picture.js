// The picture of a record: the console's view of a frame, with masks.

import { colourOf, View } from "/console/view.js";

export class Picture extends View {
  /** Shows a record; `selected` is the id of a region, or null. */
  showRecord(record, selected) {
    const regions = record.edits.regions.map(({ id, box, name, description }) => ({ id, box, text: description || name }));
    this.outlines = Object.fromEntries(Object.entries(record.outlines).filter(([id]) => {
      const region = record.edits.regions.find((other) => other.id === id);
      return region && String(region.box) === String(record.said.regions[id].box); // a box that was drawn anew has no mask
    }));
    this.lit = selected === null ? [] : [selected];
    this.canvas.dataset.lit = this.lit.join(" ");
    this.show({ bitmap: record.bitmap, width: record.width, height: record.height, regions, kept: true });
    this.say(record.pictureError ?? "");
    this.caption.textContent = record.file;
    this.describe();
  }

  /** Begins to draw with the keyboard. */
  begin() {
    this.cross = { x: this.canvas.width / 2, y: this.canvas.height / 2, from: null };
    this.canvas.focus();
    this.draw();
  }

  listen() {
    super.listen();
    this.canvas.addEventListener("keydown", (event) => { if (event.key === "Escape") this.canvas.blur(); });
  }

  tick() {}

  describe() {
    const lit = this.lit.length ? `, region ${this.lit[0]} selected` : "";
    this.canvas.setAttribute("aria-label", `${this.name}${lit}. Arrow keys move a cross (with Ctrl by pixels), Space begins`
      + " a box that Enter ends, Escape gives up.");
  }

  draw() {
    super.draw();
    const context = this.canvas.getContext("2d");
    for (const [id, polygons] of Object.entries(this.outlines ?? {})) {
      const path = new Path2D();
      for (const points of polygons) {
        for (let place = 0; place + 1 < points.length; place += 2) {
          path[place ? "lineTo" : "moveTo"](points[place], points[place + 1]);
        }
        path.closePath();
      }
      context.globalAlpha = this.lit.includes(id) ? 0.45 : 0.25;
      context.fillStyle = colourOf(id);
      context.fill(path, "evenodd");
      context.globalAlpha = 1;
    }
  }
}
