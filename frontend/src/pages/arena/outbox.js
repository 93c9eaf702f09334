// Votes on their way. A vote is written to this browser's own storage before it is sent, and taken out once the server says that it is on the
// disk (or that it has another): so a lost connection, a stopped server or a closed tab costs nothing, and a retry, having the same id, counts once.
import { sendJson } from "../../api.js";

const PLACE = "bloomery-arena-outbox";

export const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

function read() {
  try {
    return JSON.parse(localStorage.getItem(PLACE) ?? "[]");
  } catch {
    return [];
  }
}

const write = (votes) => localStorage.setItem(PLACE, JSON.stringify(votes));

export const pending = () => read();

export function put(vote) {
  write([...read().filter((other) => other.client_id !== vote.client_id), vote]);
}

/** Sends everything, oldest first. Resolves to the server's answers by client_id; `onWait(seconds)` is told before each retry. */
export async function flush({ onWait, signal }) {
  const answers = {};
  for (let wait = 1; ; ) {
    const [vote] = read();
    if (!vote || signal?.aborted) return answers;
    try {
      answers[vote.client_id] = await sendJson("POST", "/api/arena/votes", vote);
      write(read().filter((other) => other.client_id !== vote.client_id));
      wait = 1;
    } catch (error) {
      if (error.status >= 400 && error.status < 500 && ![401, 403, 408, 429].includes(error.status)) {
        answers[vote.client_id] = { error };
        write(read().filter((other) => other.client_id !== vote.client_id));
      } else {
        onWait?.(wait, error);
        await new Promise((go) => setTimeout(go, wait * 1000));
        wait = Math.min(15, wait * 2);
      }
    }
  }
}
