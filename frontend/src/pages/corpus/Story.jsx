// What happened to one document, stage by stage.
import { setQuery } from "../../router.js";
import { number } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Problem, Spinner, Table } from "../../ui/parts.jsx";
import { CutText, tell } from "./Doc.jsx";

const WORDS = {
  kept: ["kept", "good"], dropped: ["dropped", "bad"], judged: ["judged", ""], cluster: ["in a cluster of duplicates", "warn"],
  passage: ["a passage was cut", "warn"], absent: ["not there", ""],
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
      {value?.near?.length > 0 && (
        <>
          <p class="muted">Others that begin alike:</p>
          <ul class="corpus-near">{value.near.map((one) => <li key={one.id}><button type="button" class="quiet mono text" onClick={() => tell(one.url || one.id)}>{one.url || one.id}</button></li>)}</ul>
        </>
      )}
      {found && <ol class="corpus-events">{value.events.map((event, at) => <Event key={at} event={event} />)}</ol>}
    </section>
  );
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
      {event.detail && <p class="muted text">{typeof event.detail === "string" ? event.detail : JSON.stringify(event.detail)}</p>}
      {event.kept_id && <p><button type="button" class="quiet" onClick={() => tell(event.kept_id)}>The copy that was kept: <span class="mono">{event.kept_id}</span></button></p>}
      {event.rules?.length > 0 && <Judged event={event} />}
      {event.text && <details><summary>Its text here</summary><CutText text={event.text} characters={event.text.length} /></details>}
    </li>
  );
}

function Judged({ event }) {
  const failed = event.rules.filter((rule) => !rule.passed).length;
  const columns = [
    { key: "name", label: "Rule", render: (rule) => <span class="mono">{rule.name}</span> },
    { key: "value", label: "Value", align: "right", render: (rule) => number(rule.value) },
    { key: "keeps", label: "Keeps", align: "right", render: (rule) => `${rule.keeps} ${number(rule.threshold)}` },
    { key: "passed", label: "Verdict", render: (rule) => <span class={rule.passed ? "tag good" : "tag bad"}>{rule.passed ? "passed" : "failed"}</span> },
  ];
  return (
    <details open={failed > 0}>
      <summary>{failed ? `${failed} of ${event.rules.length} rules failed` : `${event.rules.length} rules judged it, all passed`}</summary>
      <Table caption={`Rules of ${event.node}`} columns={columns} rows={event.rules} />
    </details>
  );
}
