// Completion: a text, and what each model writes after it. With one model the continuation goes into the text itself.
import { useEffect, useRef, useState } from "preact/hooks";
import { Problem } from "../../ui/parts.jsx";
import { wellFormed } from "../../ui/tokens.js";
import { Answer, Facts, HeatMap } from "./Answer.jsx";
import { newSeed, streamAnswer } from "./asking.js";
import { RawPrompt } from "./RawPrompt.jsx";
import { samplingOf, writeSetting } from "./settings.js";

const KEY = "bloomery.completion";

function readText() {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function Completion({ columns: models, settings, limits, onAnswered, dropColumn }) {
  const [text, setTextState] = useState(readText);
  // By column: what it was given, and every continuation of it; `at` is the one in view.
  const [runs, showRuns] = useState({});
  const latest = useRef(runs);
  const setRuns = (change) => showRuns((latest.current = change(latest.current)));
  const [raw, setRaw] = useState(null);
  const [told, setTold] = useState("");
  const running = useRef(new Set());
  const count = useRef(0);
  const field = useRef(null);
  const single = models.length === 1;
  const busy = models.some((_, place) => runs[place]?.tries.some((one) => one.busy));

  const setText = (next) => {
    setTextState(next);
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // a full or private store: the text then lasts as long as the page
    }
  };
  const toEnd = () => {
    if (!field.current) return;
    field.current.setSelectionRange(field.current.value.length, field.current.value.length);
    field.current.scrollTop = field.current.scrollHeight;
  };

  const stopAll = () => running.current.forEach((stop) => stop.abort());
  useEffect(() => stopAll, []);
  dropColumn.current = (place) => {
    stopAll();
    setRuns((old) => Object.fromEntries(Object.entries(old).filter(([at]) => Number(at) !== place).map(([at, run]) => [Number(at) > place ? at - 1 : at, run])));
  };

  const run = async (place, base, seed, { forced = [], keep = false } = {}) => {
    const model = models[place];
    const stop = new AbortController();
    running.current.add(stop);
    const before = latest.current[place];
    const tries = keep && before?.base === base ? before.tries : [];
    const at = tries.length;
    const id = ++count.current;
    setRuns((old) => ({ ...old, [place]: { id, base, model: model.name, at, tries: [...tries, { content: "", tokens: [], busy: true }] } }));
    const change = (fields) => {
      if (latest.current[place]?.id !== id) return; // its column is gone
      setRuns((old) => ({ ...old, [place]: { ...old[place], tries: old[place].tries.map((one, i) => (i === at ? fields : one)) } }));
      if (single) {
        setText(base + fields.content);
        requestAnimationFrame(toEnd);
      }
    };
    const body = { model: model.id, text: wellFormed(base), seed, top: settings.top, forced, sampling: samplingOf(settings) };
    const said = await streamAnswer(body, change, stop.signal);
    running.current.delete(stop);
    setTold(said.error ? `${model.name}: ${said.error}` : `${model.name} has written ${said.tokens.length} tokens.`);
    if (single && !said.error) field.current?.focus();
    onAnswered();
  };

  const pickSeed = () => (settings.seed === "" ? newSeed() : Number(settings.seed));
  const goOn = () => {
    if (busy) return;
    const seed = pickSeed();
    models.forEach((_, place) => run(place, text, seed));
  };
  const again = (place) => run(place, runs[place].base, pickSeed(), { keep: true });
  const alternative = (place, at, token) => {
    const { base, tries, at: shown } = runs[place];
    run(place, base, tries[shown].seed ?? pickSeed(), { keep: true, forced: [...tries[shown].tokens.slice(0, at).map((one) => one.id), token.id] });
  };
  const turnTo = (place, at) => {
    setRuns((old) => ({ ...old, [place]: { ...old[place], at } }));
    if (single) setText(runs[place].base + runs[place].tries[at].content);
  };

  return (
    <section aria-label="Completion" class="chat-room">
      <label for="completion-text">Text to continue</label>
      <textarea
        id="completion-text" class="mono" ref={field} rows={9} maxLength={limits.characters} value={text} spellcheck={false}
        placeholder="Write a beginning, then let the model go on" readOnly={single && busy}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); goOn(); }
          if (event.key === "Escape" && busy) stopAll();
        }}
      />
      <div class="row chat-tools">
        {busy ? <button type="button" class="danger" onClick={stopAll}>Stop</button> : <button type="button" class="primary" onClick={goOn}>Continue the text</button>}
        {single && runs[0] && !busy && <button type="button" onClick={() => setText(runs[0].base)} disabled={text === runs[0].base}>Take it back</button>}
        <button type="button" class="quiet" onClick={() => setText("")} disabled={busy || !text}>Clear</button>
        <small>Ctrl+Enter continues, Escape stops</small>
      </div>
      <div class={`chat-columns chat-columns-${models.length}`} tabindex={single ? undefined : 0} role={single ? undefined : "group"} aria-label={single ? undefined : "Models side by side"}>
        {models.map((model, place) => (
          <article key={place} class="chat-column" aria-label={model.name}>
            <header>
              <h2>{single ? "What it wrote, token by token" : model.name}</h2>
              <button type="button" class="quiet" onClick={() => setRaw({ name: model.name, ask: { model: model.id, text: wellFormed(text), sampling: samplingOf(settings) } })}>What the model sees</button>
            </header>
            <Continuation
              run={runs[place]} single={single} view={settings.view} onAgain={() => again(place)} onTurn={(at) => turnTo(place, at)}
              onAlternative={(at, token) => alternative(place, at, token)} onTake={(content) => setText(runs[place].base + content)}
            />
          </article>
        ))}
      </div>
      <p class="hidden" role="status">{told}</p>
      <RawPrompt ask={raw?.ask ?? null} name={raw?.name ?? ""} onClose={() => setRaw(null)} />
    </section>
  );
}

function Continuation({ run, single, view, onAgain, onTurn, onAlternative, onTake }) {
  if (!run) return <p class="muted">Nothing yet.</p>;
  const said = run.tries[run.at];
  return (
    <>
      <Problem error={said.error ? new Error(said.error) : null} />
      {/* One model's text stands above already: here are its tokens. */}
      {single ? (
        <div aria-busy={said.busy ? "true" : undefined}>
          {said.loading && <p class="muted" role="status">Loading {said.loading.name} …</p>}
          <HeatMap tokens={said.tokens} onAlternative={said.busy ? null : onAlternative} />
        </div>
      ) : (
        <Answer said={said} view={view === "formatted" ? "plain" : view} onAlternative={onAlternative} />
      )}
      <div class="chat-under">
        {run.tries.length > 1 && (
          <span class="chat-branches" role="group" aria-label={`Continuation ${run.at + 1} of ${run.tries.length}`}>
            <button type="button" class="quiet" disabled={run.at === 0 || said.busy} onClick={() => onTurn(run.at - 1)} aria-label="Earlier branch">‹</button>
            <span>{run.at + 1}/{run.tries.length}</span>
            <button type="button" class="quiet" disabled={run.at === run.tries.length - 1 || said.busy} onClick={() => onTurn(run.at + 1)} aria-label="Later branch">›</button>
          </span>
        )}
        {!said.busy && <button type="button" class="quiet" onClick={onAgain}>Try again</button>}
        {!single && !said.busy && said.content && <button type="button" class="quiet" onClick={() => onTake(said.content)}>Take this</button>}
        <Facts said={said} onSeed={(seed) => writeSetting("seed", seed)} />
      </div>
    </>
  );
}
