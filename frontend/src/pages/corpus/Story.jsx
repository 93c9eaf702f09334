// What happened to one document, stage by stage.
import { setQuery } from "../../router.js";
import { number, percent, whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Problem, Spinner, Table } from "../../ui/parts.jsx";
import { CutText, tell } from "./Doc.jsx";

const WORDS = {
  kept: ["kept", "good"], dropped: ["dropped", "bad"], judged: ["judged", ""], cluster: ["in a cluster of duplicates", "warn"],
  passage: ["shares a passage with an evaluation set", "warn"], absent: ["not taken", ""],
};

export function Story({ run, document }) {
  const { value, error, loading, reload } = useJson("/api/corpus/story", { run, document });
  const found = value?.events.some((event) => event.what !== "absent");
  return (
    <section class="card corpus-story" aria-labelledby="corpus-story">
      <div class="corpus-head">
        <h2 id="corpus-story">What happened to it</h2>
        <button type="button" class="quiet" onClick={() => setQuery({ document: null }, { replace: false })}>Close</button>
      </div>
      <p class="corpus-url mono text" dir="auto">{value?.document?.url ?? document}</p>
      <Problem error={error} retry={reload} />
      {loading && !value && <Spinner label="Looking through the stages" />}
      {value && !found && <p role="status">No stage of this run knows it. An address must be the whole one, as it was crawled.</p>}
      {found && <p role="status"><strong>{verdict(value.events)}</strong></p>}
      {value?.near?.length > 0 && (
        <>
          <p class="muted">{found ? "Others of that name:" : "Others that begin alike:"}</p>
          <ul class="corpus-near">{value.near.map((one) => <li key={one.id}><button type="button" class="quiet mono text" onClick={() => tell(one.url || one.id)}>{one.url || one.id}</button></li>)}</ul>
        </>
      )}
      {found && <ol class="corpus-events">{value.events.map((event, at) => <Event key={at} event={event} />)}</ol>}
    </section>
  );
}

function verdict(events) {
  const dropped = events.find((event) => event.what === "dropped");
  if (dropped) return `Dropped at ${dropped.node}${dropped.rule ? ` by ${dropped.rule}` : ""}.`;
  return `Kept up to ${events.filter((event) => event.what === "kept").at(-1)?.node ?? "no stage"}.`;
}

function Event({ event }) {
  const [words, tone] = WORDS[event.what] ?? [event.what, ""];
  return (
    <li>
      <p>
        <strong>{event.node}</strong> <small>{event.stage}</small> <span class={`tag ${tone}`}>{words}</span>
        {event.rule && <> by <strong class="mono">{event.rule}</strong></>}
        {event.value !== undefined && event.value !== null && <>: {number(event.value)}</>}
        {event.threshold !== undefined && event.threshold !== null && <>, threshold {number(event.threshold)}</>}
      </p>
      <Details event={event} />
      {event.detail && <p class="muted text">{typeof event.detail === "string" ? event.detail : JSON.stringify(event.detail)}</p>}
      {event.kept_id && <p><button type="button" class="quiet" onClick={() => tell(event.kept_id)}>The copy that was kept: <span class="mono">{event.kept_id}</span></button></p>}
      {event.rules?.length > 0 && <Judged event={event} />}
      {event.text && <details><summary>Its text here</summary><CutText text={event.text} characters={event.characters ?? event.text.length} /></details>}
    </li>
  );
}

/** What the other stages noted of it: how alike a duplicate is, which passage of which evaluation set was found. */
function Details({ event }) {
  const told = [
    event.cluster_size > 1 && `one of ${whole(event.cluster_size)} copies`,
    event.similarity !== undefined && `${percent(event.similarity, 0)} alike`,
    event.task && `from ${event.task}`, event.part, event.action,
  ].filter(Boolean);
  return (
    <>
      {told.length > 0 && <p class="muted text">{told.join(", ")}</p>}
      {event.match && <p class="text">“{event.match}”</p>}
    </>
  );
}

function Judged({ event }) {
  const failed = event.rules.filter((rule) => !rule.passed).length;
  const columns = [
    { key: "name", label: "Rule", render: (rule) => <span class="mono">{rule.name}</span> },
    { key: "passed", label: "Verdict", render: (rule) => <span class={rule.passed ? "tag good" : "tag bad"}>{rule.passed ? "passed" : "failed"}</span> },
    { key: "value", label: "Value", align: "right", render: (rule) => number(rule.value) },
    { key: "keeps", label: "Keeps", align: "right", render: (rule) => `${rule.keeps} ${number(rule.threshold)}` },
  ];
  return (
    <details open={failed > 0}>
      <summary>{failed ? `${failed} of ${event.rules.length} rules failed` : `${event.rules.length} rules judged it, all passed`}</summary>
      <Table caption={`Rules of ${event.node}`} columns={columns} rows={[...event.rules].sort((a, b) => a.passed - b.passed)} />
    </details>
  );
}
