// One answer as it is made: events of the server become changes of what is shown, a few times a second and not at every token.
import { streamEvents } from "../../api.js";
import { wellFormed } from "../../ui/tokens.js";

const FLUSH_MS = 60;

/**
 * Asks and calls `onChange({content, tokens, ...})` as the answer grows. `body`: what /api/chat/answer takes.
 * Resolves when it has ended, by itself, with an error or by `signal`.
 */
export async function streamAnswer(body, onChange, signal) {
  const said = { content: "", tokens: [], busy: true, loading: null, error: null };
  let timer = null;
  const flush = () => {
    timer = null;
    onChange({ ...said, tokens: said.tokens.slice() });
  };
  const soon = () => (timer ??= setTimeout(flush, said.tokens.length > 1000 ? 4 * FLUSH_MS : FLUSH_MS));
  flush();
  try {
    await streamEvents("/api/chat/answer", body, {
      signal,
      onEvent({ event, data }) {
        if (event === "loading") said.loading = data;
        else if (event === "start") Object.assign(said, { loading: null, seed: data.seed, forgotten: data.forgotten, began: performance.now() });
        else if (event === "piece") {
          said.content += data.text;
          for (const token of data.tokens) said.tokens.push(token);
        } else if (event === "end") Object.assign(said, { stats: data, finish: data.finish });
        soon();
      },
    });
    if (!said.finish) said.error = "The answer broke off: the connection was lost.";
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) said.finish = "stopped";
    else said.error = error.message;
  }
  clearTimeout(timer);
  said.busy = false;
  said.loading = null;
  flush();
  return said;
}

export const cleanMessages = (messages) => messages.map(({ role, content }) => ({ role, content: wellFormed(content) }));

export const newSeed = () => Math.floor(Math.random() * 2 ** 31);
