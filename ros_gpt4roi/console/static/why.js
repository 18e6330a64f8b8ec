// "Why do you say that?": the training records that a region resembles.

import { showEvidence } from "./evidence.js";
import { newName, waitFor } from "./pending.js";

/**
 * Adds the button, and the place for what it shows.
 * @param {Element} place Where they go.
 * @param {string} what What is asked about, for screen readers.
 * @param {function} current Returns stamp, frame_id and region at the time somebody asks.
 * @param {Connection} connection Asks.
 */
export function addWhy(place, what, current, connection) {
  place.append(document.getElementById("why-template").content.cloneNode(true));
  const [button, status, list] = [".why", ".why-status", ".evidence"].map((selector) => place.querySelector(selector));
  button.setAttribute("aria-label", `Why do you say that? What ${what} resembles in training`);

  function show(open) {
    button.setAttribute("aria-expanded", open);
    if (open) return;
    status.textContent = "";
    showEvidence(list, []);
  }

  button.addEventListener("click", () => {
    if (button.getAttribute("aria-expanded") === "true") {
      show(false);
      return;
    }
    const about = newName("evidence");
    if (!connection.send({ type: "explain", about, ...current() })) {
      status.textContent = "Not asked: there is no connection to the console.";
      return;
    }
    show(true);
    status.textContent = "Looking for what it resembles …";
    waitFor(about, (message) => {
      if (button.getAttribute("aria-expanded") !== "true") return;
      status.textContent = message.error || (message.records.length ? "In training, this resembles most:"
        : "Nothing in training resembles it.");
      showEvidence(list, message.records);
    });
  });
}
