// The list of the live picture's regions, each with its description: what a keyboard and a screen reader use.

import { addVerdict } from "./verdict.js";
import { colourOf } from "./view.js";
import { addWhy } from "./why.js";

export class RegionList {
  constructor(list, empty, onRegion, connection) {
    Object.assign(this, { list, empty, onRegion, connection, items: new Map(), frame: null });
  }

  show(frame) {
    this.frame = frame;
    const present = new Set(frame.regions.map((region) => region.id));
    for (const [id, item] of this.items) {
      // Where somebody is, stays: a detector that misses a region once must not take the focus away.
      if (present.has(id) || item.element.contains(document.activeElement)) continue;
      item.element.remove();
      this.items.delete(id);
    }
    for (const region of frame.regions) {
      const item = this.items.get(region.id) ?? this.add(region.id);
      item.region = region;
      item.frame = frame;
      const text = region.text || "…";
      if (item.text.textContent !== text) item.text.textContent = text;
      const detail = [region.label, region.confidence ? `${Math.round(100 * region.confidence)} % sure` : "",
        region.reused ? "kept" : ""].filter(Boolean).join(", ");
      if (item.detail.textContent !== detail) item.detail.textContent = detail;
    }
    this.empty.hidden = this.items.size > 0;
  }

  add(id) {
    const element = document.createElement("li");
    element.dataset.region = id;
    const select = element.appendChild(document.createElement("button"));
    select.type = "button";
    select.className = "select";
    const swatch = select.appendChild(document.createElement("span"));
    swatch.className = "swatch";
    swatch.style.background = colourOf(id);
    const name = select.appendChild(document.createElement("strong"));
    name.textContent = `Region ${id}: `;
    const text = select.appendChild(document.createElement("span"));
    text.className = "region-text";
    const detail = element.appendChild(document.createElement("p"));
    detail.className = "quiet";
    const place = element.appendChild(document.createElement("div"));
    const item = { element, text, detail, region: null, frame: null };
    select.addEventListener("click", () => this.onRegion(this.frame, item.region));
    addVerdict(place, `the description of region ${id}`, () => ({
      kind: "description", stamp: item.frame.stamp, frame_id: item.frame.frame_id, said: item.region.text,
      regions: [{ id, box: item.region.box }],
    }), this.connection);
    addWhy(element.appendChild(document.createElement("div")), `region ${id}`, () => ({
      stamp: item.frame.stamp, frame_id: item.frame.frame_id, region: { id, box: item.region.box },
    }), this.connection);
    // In the order of their names, so that regions keep their places.
    const after = [...this.items.keys()].filter((other) => compare(other, id) > 0).sort(compare)[0];
    this.list.insertBefore(element, after === undefined ? null : this.items.get(after).element);
    this.items.set(id, item);
    return item;
  }
}

function compare(one, other) {
  return one.localeCompare(other, "en", { numeric: true });
}
