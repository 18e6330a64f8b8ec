// Thumbs, and "that's wrong: it is a …": what people say about a description or an answer.

import { newName, waitFor } from "./pending.js";

/**
 * Adds the buttons.
 * @param {Element} place Where they go.
 * @param {string} what What is judged, for screen readers.
 * @param {function} current Returns the fields of the correction at the time somebody judges.
 * @param {Connection} connection Sends it.
 */
export function addVerdict(place, what, current, connection) {
  place.append(document.getElementById("verdict-template").content.cloneNode(true));
  const find = (selector) => place.querySelector(selector);
  const [right, wrong, correct, form, result] = [".right", ".wrong", ".correct", ".correction", ".outcome"].map(find);
  right.setAttribute("aria-label", `${what} is right`);
  wrong.setAttribute("aria-label", `${what} is wrong`);
  correct.setAttribute("aria-label", `That’s wrong: say what is right instead of ${what}`);
  form.querySelector("input").setAttribute("aria-label", `It is a; for ${what}`);
  let judged = null; // fixed while somebody writes: what is shown may change

  function send(verdict, text) {
    const about = newName("correction");
    const sent = connection.send({
      type: "correct", about, verdict, right: text, who: document.getElementById("who").value.trim(),
      ...(judged ?? current()),
    });
    judged = null;
    if (!sent) {
      result.textContent = "Not sent: there is no connection to the console.";
      return;
    }
    right.setAttribute("aria-pressed", verdict === "right");
    wrong.setAttribute("aria-pressed", verdict === "wrong");
    waitFor(about, (message) => {
      const noted = `Noted: ${text ? `it is a ${text}` : verdict}.`;
      result.textContent = message.error ? `Not taken: ${message.error}`
        : message.heard ? noted : `${noted} But nothing records it: no recorder runs.`;
    });
  }

  function open(shown) {
    form.hidden = !shown;
    correct.setAttribute("aria-expanded", shown);
    judged = shown ? current() : null;
    if (shown) form.querySelector("input").focus();
  }

  right.addEventListener("click", () => send("right", ""));
  wrong.addEventListener("click", () => send("wrong", ""));
  correct.addEventListener("click", () => open(form.hidden));
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    open(false);
    correct.focus();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const input = form.querySelector("input");
    send("wrong", input.value.trim());
    input.value = "";
    open(false);
    correct.focus();
  });
}
