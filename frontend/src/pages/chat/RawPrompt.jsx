// What the model sees: the exact tokens of its prompt, special ones marked.
import { useEffect, useState } from "preact/hooks";
import { sendJson } from "../../api.js";
import { whole } from "../../ui/format.js";
import { Dialog, Problem, Spinner } from "../../ui/parts.jsx";
import { TokenStrip } from "../../ui/TokenStrip.jsx";
import { visible } from "../../ui/tokens.js";

/** `ask`: the body for /api/chat/prompt, or null while closed. */
export function RawPrompt({ ask, name, onClose }) {
  const [state, setState] = useState({});
  const [chosen, setChosen] = useState(null);
  useEffect(() => {
    setState({});
    setChosen(null);
    if (!ask) return;
    const stop = new AbortController();
    sendJson("POST", "/api/chat/prompt", ask, { signal: stop.signal }).then(
      (value) => setState({ value }),
      (error) => stop.signal.aborted || setState({ error }),
    );
    return () => stop.abort();
  }, [ask]);
  const { value, error } = state;
  return (
    <Dialog open={ask !== null} title={`What ${name} sees`} onClose={onClose}>
      <Problem error={error} />
      {!value && !error && <Spinner />}
      {value && (
        <>
          <p class="muted">
            {whole(value.num_tokens)} tokens of {whole(value.context_tokens)} that it can read at once; the answer begins after the last one.
            {value.forgotten > 0 && ` The first ${value.forgotten} messages no longer fit and are left out.`}
            {value.left_out > 0 && ` Shown are the last ${whole(value.tokens.length)}.`}
          </p>
          <TokenStrip
            tokens={value.tokens} chosen={chosen} onChoose={setChosen} label="Prompt"
            look={(token, place) => ({ class: place % 2 ? "chat-odd" : "" })}
          />
          <p class="chat-picked" aria-live="polite">
            {chosen === null ? <span class="muted">Choose a token for its id.</span> : <>Token {chosen + 1}: <code>{visible(value.tokens[chosen])}</code> id {value.tokens[chosen].id}</>}
          </p>
        </>
      )}
    </Dialog>
  );
}
