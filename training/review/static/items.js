// The list of a record's regions and conversations, with fields for their texts.

import { colourOf } from "/console/view.js";

export class Items {
  /**
   * @param {Element} list Where they go.
   * @param {Object} names Names of the data set, by how often they are there; grows by those that are typed.
   * @param {function} onEdit Called before a field is changed for the first time since it was entered.
   * @param {function} onInput Called after each change of a field.
   * @param {function} onSelect Called with the place of an item that was clicked or entered.
   */
  constructor(list, onEdit, onInput, onSelect) {
    Object.assign(this, { list, onEdit, onInput, onSelect });
    this.names = [];
  }

  /** Takes the names of the data set, the most frequent first. */
  know(names) {
    this.names = Object.entries(names).sort((one, other) => other[1] - one[1]).map(([name]) => name);
  }

  show(record) {
    this.record = record;
    const { regions, conversations } = record.edits;
    this.list.replaceChildren(...regions.map((region) => this.region(region)),
      ...conversations.map((conversation) => this.conversation(conversation)));
  }

  select(place, field = "") {
    [...this.list.children].forEach((element, index) => element.classList.toggle("selected", index === place));
    const element = this.list.children[place];
    element?.scrollIntoView({ block: "nearest" });
    if (!field) return;
    const input = element?.querySelector(field);
    input?.focus();
    input?.select();
  }

  item(template, thing, said, name) {
    const element = document.getElementById(template).content.cloneNode(true).firstElementChild;
    element.querySelector(".id").textContent = name;
    element.querySelector(".state").textContent = thing.wrong ? "wrong" : "";
    element.classList.toggle("wrong", thing.wrong);
    element.querySelector(".about").textContent = about(said);
    const place = () => [...this.list.children].indexOf(element);
    element.addEventListener("focusin", () => this.onSelect(place()));
    element.addEventListener("click", () => this.onSelect(place()));
    return element;
  }

  region(region) {
    const element = this.item("region-template", region, this.record.said.regions[region.id], `Region ${region.id}`);
    element.dataset.region = region.id;
    element.querySelector(".swatch").style.background = colourOf(region.id);
    this.field(element, ".name", region.name, (text) => { region.name = text; }, this.names);
    this.field(element, ".description", region.description, (text) => { region.description = text; });
    this.field(element, ".attributes", written(region.attributes), (text) => { region.attributes = read(text); });
    return element;
  }

  conversation(conversation) {
    const element = this.item("conversation-template", conversation, this.record.said.conversations[conversation.place],
      "Conversation");
    for (const round of conversation.rounds) {
      const place = element.querySelector(".rounds").appendChild(
        document.getElementById("round-template").content.cloneNode(true).firstElementChild);
      this.field(place, ".question-text", round[0], (text) => { round[0] = text; });
      this.field(place, ".answer-text", round[1], (text) => { round[1] = text; });
    }
    return element;
  }

  field(element, selector, value, take, names = null) {
    const input = element.querySelector(selector);
    input.value = value;
    let entered = value; // where Escape returns to
    let edited = false;
    input.addEventListener("focus", () => {
      entered = input.value;
      edited = false;
    });
    const changed = () => {
      if (!edited) this.onEdit();
      edited = true;
      take(input.value);
      this.onInput();
    };
    input.addEventListener("input", (event) => {
      if (names && event.inputType === "insertText") complete(input, names);
      changed();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || input.value === entered) return;
      input.value = entered;
      changed();
    });
    input.addEventListener("blur", () => {
      if (names && input.value.trim() && !names.includes(input.value)) names.push(input.value);
    });
  }
}

// Ends what is typed as the most frequent name that begins so; the end is selected, so that typing on replaces it.
function complete(input, names) {
  const typed = input.value;
  if (!typed || input.selectionStart !== typed.length) return;
  const found = names.find((name) => name.length > typed.length && name.toLowerCase().startsWith(typed.toLowerCase()));
  if (!found) return;
  input.value = typed + found.slice(typed.length);
  input.setSelectionRange(typed.length, found.length);
}

function about(said) {
  if (!said) return "drawn here";
  const sure = said.confidence === null ? "" : `, ${Math.round(100 * said.confidence)} % sure`;
  const judged = said.judgements.map(({ said: text, right, wrong, who }) => {
    const verdict = !wrong ? "right" : right ? `“${right}”` : "wrong";
    return `${who || "somebody"} on “${text}”: ${verdict}`;
  });
  return [`${said.source || "source unknown"}${sure}`, ...judged].join(" · ");
}

function written(attributes) {
  return Object.entries(attributes).map(([name, value]) => `${name}: ${value}`).join(", ");
}

function read(text) {
  const pairs = text.split(",").map((part) => part.split(/:(.*)/s).map((word) => (word ?? "").trim()));
  return Object.fromEntries(pairs.filter(([name, value]) => name && value));
}
