// The health panel: what /diagnostics says, in groups.

const LEVELS = ["OK", "Warning", "Error", "Stale"];
// By the names of the values, in this order; what fits nowhere is a drop or a refusal: their names say why.
const GROUPS = [
  ["Latency", /^stage .*\[ms\]$|latency/],
  ["Device, engine and memory", /memory|mib|backend|device|engine|format|gpu|cache|threads|^vision|^language|model|state/i],
  ["Queues and conversations", /waiting|open|conversations|alive|held|live|pairs/],
];

export class Health {
  constructor() {
    this.values = new Map();
    this.summary = document.getElementById("health-summary");
    this.place = document.getElementById("health-groups");
  }

  show({ node, rates, browsers }) {
    if (!node.there) this.values.clear();
    for (const name of node.gone ?? []) this.values.delete(name);
    for (const [name, value] of Object.entries(node.values ?? {})) this.values.set(name, value);
    const text = node.there ? `${LEVELS[node.level] ?? node.level}: ${node.message}` : node.message;
    if (this.summary.textContent !== text) this.summary.textContent = text;
    if (!this.place.closest("details").open) return;
    const groups = new Map([["Rates", [["images a second", rates.images], ["descriptions a second", rates.descriptions],
      ["from image to description [ms]", rates["description latency [ms]"] ?? "–"], ["browsers", browsers]]]]);
    for (const [name, value] of this.values) {
      const group = GROUPS.find(([, pattern]) => pattern.test(name))?.[0] ?? "Counters, and what was dropped or refused";
      groups.set(group, [...(groups.get(group) ?? []), [name, value]]);
    }
    this.place.replaceChildren(...[...groups].map(([title, rows]) => table(title, rows)));
  }
}

function table(title, rows) {
  const element = document.createElement("table");
  element.createCaption().textContent = title;
  for (const [name, value] of rows) {
    const row = element.insertRow();
    const head = row.appendChild(document.createElement("th"));
    head.scope = "row";
    head.textContent = name;
    row.insertCell().textContent = value;
  }
  return element;
}
