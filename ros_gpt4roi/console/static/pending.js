// What the page has sent and waits to hear of, by names that the page itself gives.

const MOST_WAITING = 50;
const waiting = new Map(); // name: what is done with the message that comes
let count = 0;

/** Returns a name that nothing else has, such as "correction 3". */
export function newName(kind) {
  return `${kind} ${count++}`;
}

/** Has a function called with the message about a name; of too many, the oldest is not waited for any more. */
export function waitFor(about, callback) {
  if (waiting.size >= MOST_WAITING) waiting.delete(waiting.keys().next().value);
  waiting.set(about, callback);
}

/** Takes a message about a name. */
export function settle(message) {
  waiting.get(message.about)?.(message);
  waiting.delete(message.about);
}
