// One comparison after the other: the prompt, the answers without names, and a vote by mouse or key.
import { useEffect, useRef, useState } from "preact/hooks";
import { sendJson } from "../../api.js";
import { whole } from "../../ui/format.js";
import { Markdown } from "../../ui/Markdown.jsx";
import { Choice, Field, Problem, Spinner } from "../../ui/parts.jsx";
import { flush, newId, pending, put } from "./outbox.js";
import { Ranking } from "./Ranking.jsx";

const CHOICES = [
  { value: "left", label: "Left is better", key: "1", also: "ArrowLeft", sign: "←" },
  { value: "tie", label: "Equally good", key: "3", also: "t", sign: "T" },
  { value: "both_bad", label: "Both are bad", key: "4", also: "b", sign: "B" },
  { value: "right", label: "Right is better", key: "2", also: "ArrowRight", sign: "→" },
];
const SAID = { left: "left is better", right: "right is better", tie: "equally good", both_bad: "both are bad", skip: "skipped", ranking: "a ranking" };
const REASONS = {
  finished: "Everything here has the votes that are wanted, or you have seen it all. Thank you.",
  quota: "You have cast all the votes that are asked of you. Thank you.",
  closed: "This campaign is closed: it takes no votes any more.",
  no_answers: "The answers are still being made. This page looks again by itself.",
};
const WHO = "bloomery-arena-annotator";
const SETTLE_MS = 250; // a second click that was meant for the comparison before

export function Vote({ campaign }) {
  const [annotator, setAnnotator] = useState(() => readAnnotator());
  const keep = (who) => {
    if (who) localStorage.setItem(WHO, JSON.stringify(who));
    else localStorage.removeItem(WHO);
    setAnnotator(who);
  };
  if (!annotator) return <Join onJoin={keep} />;
  return <Turns key={annotator.key} campaign={campaign} annotator={annotator} onLeave={() => keep(null)} />;
}

function readAnnotator() {
  try {
    return JSON.parse(localStorage.getItem(WHO));
  } catch {
    return null;
  }
}

function Join({ onJoin }) {
  const [name, setName] = useState("");
  const [error, setError] = useState(null);
  const join = async (event) => {
    event.preventDefault();
    try {
      onJoin(await sendJson("POST", "/api/arena/annotators", { name }));
    } catch (problem) {
      setError(problem);
    }
  };
  return (
    <form class="card arena-join" onSubmit={join}>
      <Problem error={error} />
      <Field label="Your name" hint="Votes are kept under it. It is no password: who has this server's token may use any name.">
        {(id) => <input id={id} value={name} required maxLength={80} autocomplete="nickname" onInput={(event) => setName(event.currentTarget.value)} />}
      </Field>
      <button class="primary">Begin to vote</button>
    </form>
  );
}

function Turns({ campaign, annotator, onLeave }) {
  const [turn, setTurn] = useState(null);
  const [last, setLast] = useState(null);
  const [busy, setBusy] = useState(false);
  const [waiting, setWaiting] = useState(null);
  const [error, setError] = useState(null);
  const [always, setAlways] = useState(() => localStorage.getItem("bloomery-arena-reveal") === "1");
  const [form, setForm] = useState(() => localStorage.getItem("bloomery-arena-form") ?? "formatted");
  const since = useRef(0);
  const working = useRef(false);

  const next = async () => {
    const found = await sendJson("POST", `/api/arena/campaigns/${campaign.key}/next`, { annotator: annotator.key });
    since.current = performance.now();
    setTurn(found);
    return found;
  };
  // One thing at a time: a second click while the first is on its way does nothing.
  const work = async (task) => {
    if (working.current) return;
    working.current = true;
    setBusy(true);
    setError(null);
    try {
      await task();
    } catch (problem) {
      setError(problem);
    } finally {
      working.current = false;
      setBusy(false);
      setWaiting(null);
    }
  };
  const send = async () => flush({ onWait: (seconds, problem) => setWaiting({ seconds, problem }) });

  useEffect(() => {
    work(async () => {
      if (pending().length) await send();
      const found = await next();
      if (found.last_vote) setLast({ client_id: found.last_vote });
    });
  }, []);
  useEffect(() => {
    if (turn?.reason !== "no_answers") return undefined;
    const timer = setInterval(() => work(next), 3000);
    return () => clearInterval(timer);
  }, [turn?.reason]);

  const vote = (choice, ranks = []) => {
    const took = performance.now() - since.current;
    if (!turn?.shown || took < SETTLE_MS) return;
    work(async () => {
      const body = { annotator: annotator.key, comparison: turn.shown.key, client_id: newId(), choice, ranks, milliseconds: Math.min(86400000, Math.round(took)) };
      put(body);
      const answer = (await send())[body.client_id];
      if (answer?.error) setError(answer.error);
      const said = { client_id: body.client_id, choice, comparison: body.comparison, order: ranks };
      setLast(said);
      if (always && !answer?.error) setLast({ ...said, models: await names(said) });
      await next();
    });
  };
  const names = async (said) => (await sendJson("POST", "/api/arena/reveal", { annotator: annotator.key, comparison: said.comparison })).models;
  const reveal = () => last?.comparison && !last.models && work(async () => setLast({ ...last, models: await names(last) }));
  const undo = () =>
    last && work(async () => {
      await sendJson("POST", "/api/arena/undo", { annotator: annotator.key, vote: last.client_id, client_id: newId() });
      const found = await next();
      setLast(found.last_vote ? { client_id: found.last_vote } : null);
    });

  useEffect(() => {
    const onKey = (event) => {
      if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, textarea, select, dialog, [role='tablist']")) return;
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const choice = campaign.kind === "pair" && CHOICES.find((one) => one.key === key || one.also === key);
      const act = choice ? () => vote(choice.value) : { s: () => vote("skip"), u: undo, r: reveal }[key];
      if (!act) return;
      event.preventDefault();
      act();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  const shown = turn?.shown;
  const show = (text) => (form === "plain" ? <div class="text">{text}</div> : <div class="markdown"><Markdown text={text} /></div>);
  return (
    <div class="arena">
      <div class="arena-main">
        <div class="row arena-bar">
          <span>
            <strong>{annotator.name}</strong> <button type="button" class="quiet" onClick={onLeave}>Change name</button>
          </span>
          <span class="muted" aria-live="polite">{turn && `${whole(turn.voted)}${turn.quota ? ` of ${whole(turn.quota)}` : ""} votes`}</span>
          <Choice
            label="How answers are shown" value={form} options={[{ value: "formatted", label: "Formatted" }, { value: "plain", label: "Plain" }]}
            onChange={(value) => { localStorage.setItem("bloomery-arena-form", value); setForm(value); }}
          />
        </div>
        {waiting && (
          <p class="problem" role="alert">Your vote is not saved yet: {waiting.problem.message} It is kept in this browser and sent again in {waiting.seconds} s.</p>
        )}
        <Problem error={error} retry={() => work(next)} />
        <Last last={last} busy={busy} onUndo={undo} onReveal={reveal} />
        {!turn && !error && <Spinner label="Looking for a comparison" />}
        {turn && !shown && <div class="empty" role="status"><h2>Nothing to compare now</h2><p>{REASONS[turn.reason]}</p></div>}
        {shown && (
          <section aria-label="Comparison" aria-busy={busy} key={shown.key}>
            <Prompt messages={shown.messages} show={show} />
            {campaign.kind === "pair" ? (
              <Pair answers={shown.answers} show={show} busy={busy} onVote={vote} />
            ) : (
              <Ranking answers={shown.answers} show={show} busy={busy} onVote={vote} />
            )}
          </section>
        )}
      </div>
      <aside class="arena-aside">
        <details class="card" open>
          <summary>Guideline</summary>
          <p class="text">{campaign.guideline}</p>
        </details>
        <details class="card">
          <summary>Keys</summary>
          <dl class="keys">
            {campaign.kind === "pair" && CHOICES.map((one) => <Key key={one.value} keys={`${one.key} or ${one.sign}`} says={one.label} />)}
            {campaign.kind === "ranking" && <Key keys="↑ ↓" says="Move the answer that has the focus" />}
            {campaign.kind === "ranking" && <Key keys="=" says="Equal to the one above" />}
            {campaign.kind === "ranking" && <Key keys="Enter" says="Send the ranking" />}
            <Key keys="S" says="Skip" /> <Key keys="U" says="Undo" /> <Key keys="R" says="Show the models of the last vote" />
          </dl>
        </details>
        <label class="arena-check">
          <input
            type="checkbox" checked={always}
            onChange={(event) => { localStorage.setItem("bloomery-arena-reveal", event.currentTarget.checked ? "1" : "0"); setAlways(event.currentTarget.checked); }}
          /> Show the models after every vote
        </label>
        <small>A vote that is changed after the models were shown is kept, but counts in no rating: it is not blind.</small>
      </aside>
    </div>
  );
}

function Last({ last, busy, onUndo, onReveal }) {
  return (
    <div class="row arena-last" role="status">
      {last && <span>{last.choice ? <>Last vote: <strong>{SAID[last.choice]}</strong>.</> : "Your last vote can be undone."}</span>}
      {last && <button type="button" disabled={busy} onClick={onUndo}>Undo <kbd>U</kbd></button>}
      {last?.comparison && !last.models && <button type="button" disabled={busy} onClick={onReveal}>Show the models <kbd>R</kbd></button>}
      {last?.models && (
        <span class="arena-names">
          {last.models.map((name, place) => (
            <span key={place} class="tag">{last.models.length === 2 && last.choice !== "ranking" ? ["Left", "Right"][place] : letter(place)}: {name}</span>
          ))}
        </span>
      )}
    </div>
  );
}

function Prompt({ messages, show }) {
  return (
    <div class="card arena-prompt">
      {messages.map((message, place) => (
        <div key={place}>
          <h3 class="muted">{{ user: "Prompt", system: "System", assistant: "Earlier answer", tool: "Tool" }[message.role] ?? message.role}</h3>
          {show(message.content ?? "")}
        </div>
      ))}
    </div>
  );
}

function Pair({ answers, show, busy, onVote }) {
  const click = (choice) => (event) => event.detail <= 1 && onVote(choice);
  return (
    <>
      <div class="arena-pair">
        {answers.map((text, place) => (
          <article key={place} class="card" aria-label={place ? "Right answer" : "Left answer"}>
            <h2>{place ? "Right" : "Left"}</h2>
            {text ? show(text) : <p class="muted">(an empty answer)</p>}
          </article>
        ))}
      </div>
      <div class="arena-choices" role="group" aria-label="Your vote">
        {CHOICES.map((one) => (
          <button key={one.value} type="button" class={one.value === "left" || one.value === "right" ? "primary" : ""} aria-disabled={busy} onClick={click(one.value)}>
            {one.label} <kbd>{one.sign}</kbd>
          </button>
        ))}
        <button type="button" class="quiet" aria-disabled={busy} onClick={click("skip")}>Skip <kbd>S</kbd></button>
      </div>
    </>
  );
}

function Key({ keys, says }) {
  return <div><dt><kbd>{keys}</kbd></dt><dd>{says}</dd></div>;
}

export const letter = (place) => String.fromCharCode(65 + place);
