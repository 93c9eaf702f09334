// Many runs over each other: one stage of each in the same charts, and the settings in which they differ.
import { useMemo, useState } from "preact/hooks";
import { place, setQuery } from "../../router.js";
import { useJson } from "../../ui/load.js";
import { Empty, Problem, Select, Spinner, Tabs } from "../../ui/parts.jsx";
import { Curves } from "./Curves.jsx";
import { useLive } from "./live.js";
import { StateTag } from "./words.jsx";

export function Overlay() {
  const { value, error, reload } = useJson("/api/runs");
  const [watched, watch] = useState(null);
  const [points, setPoints] = useState(null);
  useLive(watched, { points: setPoints });
  const query = place.value.query;
  const [asked, tab] = [query.getAll("run"), query.get("tab") ?? "curves"];
  const stage = query.get("stage");
  const { runs, stages, current, sources } = useMemo(() => choose(value?.runs ?? [], asked, stage), [value, asked.join(), stage]);
  if (!value) return <><h1>Compare runs</h1><Problem error={error} retry={reload} />{!error && <Spinner label="Reading the store" />}</>;
  if (!value.runs.length) return <><h1>Compare runs</h1><Empty title="No run yet" command="bloomery run quickstart" /></>;
  const toggle = (id) => setQuery({ run: asked.includes(id) ? asked.filter((other) => other !== id) : [...asked, id] });
  const tabs = [
    {
      id: "curves", label: "Curves",
      content: () => (sources.length ? <Curves sources={sources} watch={watch} points={points} /> : <p class="muted">Choose runs that train.</p>),
    },
    { id: "differences", label: "Differences of settings", content: () => <Differences runs={runs} /> },
  ];
  return (
    <>
      <p><a href="/runs">All runs</a></p>
      <h1>Compare runs</h1>
      <div class="row">
        <Select label="Stage" value={current ?? ""} options={stages.map((id) => ({ value: id, label: id }))} onChange={(id) => setQuery({ stage: id })} />
        <details class="chooser" open={asked.length < 2}>
          <summary>{runs.length} of {value.runs.length} runs chosen</summary>
          <ul>
            {value.runs.map((run) => (
              <li key={run.id}><label><input type="checkbox" checked={asked.includes(run.id)} onChange={() => toggle(run.id)} /> {run.name}</label> <StateTag state={run.state} /></li>
            ))}
          </ul>
        </details>
      </div>
      <Tabs label="What to compare" tabs={tabs} active={tab} onChange={(next) => setQuery({ tab: next === "curves" ? null : next })} />
    </>
  );
}

function choose(all, asked, stage) {
  const byId = new Map(all.map((run) => [run.id, run]));
  const runs = asked.map((id) => byId.get(id)).filter(Boolean);
  const counts = new Map();
  for (const run of runs) for (const id of run.training) counts.set(id, (counts.get(id) ?? 0) + 1);
  const stages = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
  const current = stages.includes(stage) ? stage : stages[0];
  const sources = runs.filter((run) => run.training.includes(current)).map((run) => ({ key: `${run.id}.${current}`, label: run.name }));
  return { runs, stages, current, sources };
}

function Differences({ runs }) {
  const { value, error, reload } = useJson(runs.length > 1 ? "/api/runs/compare" : null, { run: runs.slice(0, 20).map((run) => run.id) });
  if (runs.length < 2) return <p class="muted">Choose at least two runs.</p>;
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return <Spinner label="Comparing" />;
  if (!value.fields.length) return <p>All settings of these runs are equal.</p>;
  return (
    <div class="scroll" tabindex="0" role="region" aria-label="Differences of settings">
      <table class="differences">
        <caption>{value.fields.length} fields differ; all others are equal</caption>
        <thead><tr><th scope="col">Field</th>{value.runs.map((run) => <th key={run.id} scope="col">{run.name}</th>)}</tr></thead>
        <tbody>
          {value.fields.map((row) => (
            <tr key={row.field}><th scope="row" class="mono">{row.field}</th>{row.values.map((one, i) => <td key={value.runs[i].id} class="mono text">{typeof one === "string" ? one : JSON.stringify(one)}</td>)}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
