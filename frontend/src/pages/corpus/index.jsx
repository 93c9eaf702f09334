// What curation did: a run's funnel, what became of one document, and of a chosen stage its documents, thresholds, origins, duplicates, placeholders.
import { useEffect, useState } from "preact/hooks";
import { place, setQuery } from "../../router.js";
import { useJson } from "../../ui/load.js";
import { Empty, Field, Problem, Select, Spinner, Tabs } from "../../ui/parts.jsx";
import { Breakdown } from "./Breakdown.jsx";
import { Clusters } from "./Clusters.jsx";
import { Funnel } from "./Funnel.jsx";
import { Placeholders } from "./Placeholders.jsx";
import { Samples } from "./Samples.jsx";
import { Story } from "./Story.jsx";
import { Thresholds } from "./Thresholds.jsx";

const OF_A_STAGE = { tab: null, rule: null, kind: null, seed: null, count: null, by: null, cluster: null, from: null, at: null };

export default function Page() {
  const { value, error, loading, reload } = useJson("/api/corpus/runs");
  const query = place.value.query;
  const runs = value?.runs ?? [];
  const run = query.get("run") ?? runs[0]?.id;
  return (
    <>
      <h1>Corpus</h1>
      <Problem error={error} retry={reload} />
      {loading && !value && <Spinner label="Reading the store" />}
      {value && !runs.length && (
        <Empty title="No documents yet" command="bloomery run quickstart"><p>A run is shown here as soon as its first stage that gives documents has finished.</p></Empty>
      )}
      {run && value && (
        <>
          <div class="row corpus-tools">
            <Select label="Run" value={run} options={runs.map(({ id, name }) => ({ value: id, label: name }))} onChange={(id) => setQuery({ run: id, artifact: null, document: null, ...OF_A_STAGE }, { replace: false })} />
            <Search asked={query.get("document") ?? ""} />
          </div>
          {query.get("document") && <Story key={`${run} ${query.get("document")}`} run={run} document={query.get("document")} />}
          <Run key={run} run={run} />
        </>
      )}
    </>
  );
}

/** Asks what happened to a document by its address or id. */
function Search({ asked }) {
  const [text, setText] = useState(asked);
  useEffect(() => setText(asked), [asked]);
  const ask = (event) => {
    event.preventDefault();
    setQuery({ document: text.trim() || null }, { replace: false });
  };
  return (
    <form class="row corpus-search" role="search" onSubmit={ask}>
      <Field label="What happened to … (URL or id)">
        {(id) => <input id={id} value={text} maxLength={4000} autocomplete="off" spellcheck={false} placeholder="https://…" onInput={(event) => setText(event.currentTarget.value)} />}
      </Field>
      <button type="submit">Ask</button>
    </form>
  );
}

function Run({ run }) {
  const { value, error, loading, reload } = useJson("/api/corpus/funnel", { run });
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return loading && <Spinner label="Reading the funnel" />;
  const steps = value.steps;
  const chosen = steps.find((step) => step.artifact === place.value.query.get("artifact")) ?? steps.find((step) => step.can.signals) ?? steps[0];
  if (!chosen) return <Empty title="No finished stage of this run gives documents" command={`bloomery run ${value.run.name}`} />;
  const choose = (artifact, more = {}) => setQuery({ ...OF_A_STAGE, artifact, ...more }, { replace: false });
  return (
    <>
      <Funnel steps={steps} chosen={chosen} onChoose={choose} />
      <Stage key={chosen.artifact} step={chosen} />
    </>
  );
}

function Stage({ step }) {
  const tabs = [
    { id: "samples", label: "Samples", content: () => <Samples step={step} /> },
    step.can.signals && { id: "thresholds", label: "Thresholds", content: () => <Thresholds step={step} /> },
    { id: "breakdown", label: "Languages, domains, sources", content: () => <Breakdown step={step} /> },
    step.can.clusters && { id: "duplicates", label: "Duplicates", content: () => <Clusters step={step} /> },
    step.can.pii && { id: "pii", label: "Personal data", content: () => <Placeholders step={step} /> },
  ].filter(Boolean);
  return (
    <section aria-labelledby="corpus-stage" class="corpus-stage">
      <h2 id="corpus-stage">{step.node} <small>{step.stage}</small></h2>
      <Tabs label={`Views of ${step.node}`} tabs={tabs} active={place.value.query.get("tab") ?? "samples"} onChange={(tab) => setQuery({ tab })} />
    </section>
  );
}
