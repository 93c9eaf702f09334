// A text in tokens, as it is typed; a chosen token tells which merges made it.
import { useEffect, useRef, useState } from "preact/hooks";
import { sendJson } from "../../api.js";
import { place, setQuery } from "../../router.js";
import { number, whole } from "../../ui/format.js";
import { Choice, Problem, Spinner } from "../../ui/parts.jsx";
import { TokenStrip } from "../../ui/TokenStrip.jsx";
import { hexOf, spoken, visible, wellFormed } from "../../ui/tokens.js";

const EXAMPLE = "The quick brown fox jumps over 1,234 lazy dogs.\n\n    def größe(x):\n        return x + 1\n\n你好，世界 👩‍🚀 مرحبا";
const SHOWN_AT_ONCE = 2000;
const MAX_EXPLAINED = 20_000;
const MAX_IN_ADDRESS = 600;
const PAUSE_MS = 200;

export function TextView({ both, limit }) {
  const { query } = place.value;
  const [text, setText] = useState(query.get("text") ?? EXAMPLE);
  const view = query.get("view") ?? "text";
  const specials = query.get("specials") === "1";
  const timer = useRef(null);
  const write = (next) => {
    setText(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setQuery({ text: next.length <= MAX_IN_ADDRESS && next !== EXAMPLE ? wellFormed(next) : null }), 3 * PAUSE_MS);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  return (
    <div class="stack">
      <div class="field">
        <label for="tokenizer-text">Text</label>
        <textarea id="tokenizer-text" rows={7} maxLength={limit} value={text} spellcheck={false} dir="auto" onInput={(event) => write(event.currentTarget.value)} />
        <small>{whole(text.length)} of at most {whole(limit)} characters</small>
      </div>
      <div class="row tokenizer-tools">
        <Choice
          label="Show tokens as" value={view} onChange={(next) => setQuery({ view: next === "text" ? null : next })}
          options={[{ value: "text", label: "Text" }, { value: "ids", label: "Ids" }, { value: "bytes", label: "Bytes" }]}
        />
        <label class="tokenizer-check">
          <input type="checkbox" checked={specials} onChange={(event) => setQuery({ specials: event.currentTarget.checked ? 1 : null })} /> Read special tokens in the text
        </label>
      </div>
      <div class={`tokenizer-sides tokenizer-sides-${both.length}`}>
        {both.map((one) => <Side key={one.id} tokenizer={one} text={text} view={view} specials={specials} many={both.length > 1} />)}
      </div>
    </div>
  );
}

/** {value, error} of the text in tokens, asked for when the typing pauses. */
function useTokens(tokenizer, text, specials) {
  const [state, setState] = useState({});
  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(() => {
      const sent = wellFormed(text);
      sendJson("POST", "/api/tokenizer/encode", { tokenizer, text: sent, specials }, { signal: stop.signal }).then(
        (value) => setState({ value: { ...value, text: sent, specials, list: value.ids.map((id) => value.tokens[id]) } }),
        (error) => stop.signal.aborted || setState({ error }),
      );
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [tokenizer, text, specials]);
  return state;
}

function Side({ tokenizer, text, view, specials, many }) {
  const { value, error } = useTokens(tokenizer.id, text, specials);
  const [chosen, setChosen] = useState(null);
  const [shown, setShown] = useState(SHOWN_AT_ONCE);
  useEffect(() => {
    setChosen(null);
    setShown(SHOWN_AT_ONCE);
  }, [value?.text, value?.specials, tokenizer.id]);
  const look = (token, at) => ({
    class: `tokenizer-c${at % 5}`,
    text: view === "ids" ? String(token.id) : view === "bytes" ? hexOf(token) : visible(token),
    label: `${spoken(token)}, id ${token.id}`,
  });
  return (
    <section class="tokenizer-side" aria-label={tokenizer.name}>
      {many && <h2>{tokenizer.name}</h2>}
      <Problem error={error} />
      {!value && !error && <Spinner />}
      {value && (
        <>
          <p class="tokenizer-counts" aria-live="polite">
            <strong>{whole(value.num_tokens)}</strong> tokens · {whole(value.num_bytes)} bytes · <strong>{number(value.bytes_per_token, 3)}</strong> bytes a token ·{" "}
            <span class="muted">vocabulary of {whole(value.vocab_size)}</span>
          </p>
          {!value.is_exact && <p class="tokenizer-note">This tokenizer changes the text before it cuts it: its tokens do not spell the same bytes.</p>}
          <div class={`tokenizer-box tokenizer-as-${view}`}>
            <TokenStrip tokens={value.list.slice(0, shown)} chosen={chosen} onChoose={setChosen} look={look} label={`Tokens of ${tokenizer.name}`} />
            {value.list.length > shown && <button type="button" onClick={() => setShown(shown + SHOWN_AT_ONCE)}>Show more ({whole(value.list.length - shown)} left)</button>}
          </div>
          {chosen !== null && value.list[chosen] ? (
            <Why tokenizer={tokenizer} value={value} at={chosen} />
          ) : value.list.length > 0 && <p class="muted">Choose a token to see its id, its bytes and the merges that made it.</p>}
        </>
      )}
    </section>
  );
}

function Why({ tokenizer, value, at }) {
  const token = value.list[at];
  const [state, setState] = useState({});
  // With special tokens read, places are those of another cutting; a long text is too much to follow.
  const unasked = value.specials ? "Merges are told where special tokens are read as text." : value.text.length > MAX_EXPLAINED ? `Merges are told for texts of up to ${whole(MAX_EXPLAINED)} characters.` : "";
  useEffect(() => {
    setState({});
    if (unasked) return;
    const stop = new AbortController();
    sendJson("POST", "/api/tokenizer/why", { tokenizer: tokenizer.id, text: value.text, place: at }, { signal: stop.signal }).then(
      (why) => setState({ why }),
      (error) => stop.signal.aborted || setState({ error }),
    );
    return () => stop.abort();
  }, [tokenizer.id, value, at, unasked]);
  const { why, error } = state;
  return (
    <div class="card tokenizer-why" aria-live="polite">
      <h3>Token {at + 1}: <code>{visible(token)}</code></h3>
      <p>id {token.id} · bytes <code>{hexOf(token)}</code>{token.special && " · a special token"}</p>
      <Problem error={error} />
      {unasked ? <p class="muted">{unasked}</p> : !why && !error && <Spinner label="Following the merges" />}
      {why && <Story why={why} />}
    </div>
  );
}

function Story({ why }) {
  return (
    <>
      <p>
        The text is cut into pieces first; this one is{" "}
        {why.piece.map((token, i) => <code key={i} class={i === why.place ? "tokenizer-here" : ""}>{visible(token)}</code>)}
        {why.is_whole ? ", an entry of the vocabulary as it is." : why.piece.length > 1 ? `, in ${why.piece.length} tokens: no merge joins them further.` : "."}
      </p>
      {why.steps.length === 0 ? (
        <p class="muted">{why.is_whole ? "It was taken whole; there was nothing to merge." : "A single symbol: no merge was needed."}</p>
      ) : (
        <>
          <p class="muted">{why.is_whole ? "Merges that lead to it" : "Merges, in the order in which they were done"}; a lower rank was learnt earlier and goes first.</p>
          <div class="scroll" tabindex="0" role="region" aria-label="Merges">
            <table>
              <thead><tr><th scope="col" class="right">Rank</th><th scope="col">Left</th><th scope="col">Right</th><th scope="col">Becomes</th><th scope="col" class="right">Id</th></tr></thead>
              <tbody>
                {why.steps.map((step, i) => (
                  <tr key={i}>
                    <td class="right">{whole(step.rank)}</td><td><code>{visible(step.left)}</code></td><td><code>{visible(step.right)}</code></td>
                    <td><code>{visible(step.result)}</code></td><td class="right">{step.result.id}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </>
  );
}
