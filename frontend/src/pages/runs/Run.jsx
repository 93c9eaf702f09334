// One run: what it is doing, its stages as a graph and a table, curves, samples, scores, settings.
import { useState } from "preact/hooks";
import { place, setQuery } from "../../router.js";
import { bytes, seconds } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { CopyButton, Problem, Spinner, Tabs } from "../../ui/parts.jsx";
import { Curves } from "./Curves.jsx";
import { Findings } from "./Findings.jsx";
import { Graph } from "./Graph.jsx";
import { Samples, Scores } from "./Results.jsx";
import { useLive } from "./live.js";
import { Actions, Progress, StateTag, timeLeft } from "./words.jsx";

const ABSENT = ["waiting", "left out"];

export function Run({ id }) {
  const { value, error, reload } = useJson(`/api/runs/${id}`);
  const [news, setNews] = useState(null);
  const [watched, watch] = useState(null);
  const [points, setPoints] = useState(null);
  const connection = useLive(value ? { run: id, ...watched } : null, { run: setNews, points: setPoints });
  const run = news ?? value;
  if (!run) return <><h1>Run</h1><Problem error={error} retry={reload} />{!error && <Spinner label="Reading the run" />}</>;
  const tab = place.value.query.get("tab") ?? "stages";
  const trained = run.stages.filter((stage) => stage.has_curves && !ABSENT.includes(stage.state));
  const tabs = [
    { id: "stages", label: "Stages", content: () => <Stages run={run} /> },
    { id: "curves", label: "Curves", content: () => <RunCurves run={run} trained={trained} watch={watch} points={points} /> },
    { id: "samples", label: "Samples", content: () => <Samples run={run} /> },
    { id: "scores", label: "Scores", content: () => <Scores run={run} /> },
    { id: "settings", label: "Settings and log", content: () => <Settings run={run} /> },
  ];
  return (
    <>
      <p><a href="/runs">All runs</a></p>
      <header class="run-head">
        <h1>{run.name}</h1>
        <StateTag state={run.state} />
        <span class="muted">{[run.reason, timeLeft(run), run.host && `on ${run.host}`].filter(Boolean).join(" · ")}</span>
        <Actions run={run} onChange={reload} />
        {connection === "lost" && <small class="warn-text" role="status">Connection lost; trying again</small>}
      </header>
      <Findings run={run} />
      <Tabs label="Parts of the run" tabs={tabs} active={tab} onChange={(next) => setQuery({ tab: next === "stages" ? null : next })} />
    </>
  );
}

function Stages({ run }) {
  return (
    <>
      <Graph stages={run.stages} />
      <div class="scroll" tabindex="0" role="region" aria-label="Stages">
        <table class="stages-table">
          <caption class="hidden">Stages of {run.name}</caption>
          <thead>
            <tr>
              <th scope="col">Stage</th><th scope="col">State</th><th scope="col">Reason</th><th scope="col">Progress</th><th scope="col" class="right">Time</th><th scope="col" class="right">Memory</th>
            </tr>
          </thead>
          <tbody>
            {run.stages.map((stage) => (
              <tr key={stage.id} id={`stage-${stage.id}`}>
                <th scope="row"><span class="mono">{stage.id}</span> {stage.stage !== stage.id && <small class="muted">{stage.stage}</small>}</th>
                <td><StateTag state={stage.state} /></td>
                <td class="reason">
                  <span class={stage.state === "failed" ? "bad-text text" : "text"}>{stage.reason}</span>
                  {stage.differences.length > 0 && (
                    <details><summary>{stage.differences.length === 1 ? "1 difference" : `${stage.differences.length} differences`} to {stage.nearest}</summary><ul>{stage.differences.map((text) => <li key={text}>{text}</li>)}</ul></details>
                  )}
                </td>
                <td><Progress progress={["running", "stopping"].includes(stage.state) ? stage.progress : null} /> <small>{timeLeft(stage)}</small></td>
                <td class="right">{stage.seconds === null ? "" : seconds(stage.seconds)}</td>
                <td class="right">{stage.memory_bytes === null ? "" : bytes(stage.memory_bytes)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function RunCurves({ run, trained, watch, points }) {
  const asked = place.value.query.getAll("stage").filter((id) => trained.some((stage) => stage.id === id));
  const first = trained.find((stage) => ["running", "stopping"].includes(stage.state)) ?? trained[0];
  const chosen = asked.length ? asked : first ? [first.id] : [];
  if (!trained.length) return <p class="muted">No stage of this run trains, or none has begun. Curves appear with the first step of a training.</p>;
  const toggle = (id) => setQuery({ stage: chosen.includes(id) ? chosen.filter((other) => other !== id) : [...chosen, id] });
  return (
    <>
      <fieldset class="stage-choice">
        <legend>Stages shown</legend>
        {trained.map((stage) => (
          <label key={stage.id}><input type="checkbox" checked={chosen.includes(stage.id)} onChange={() => toggle(stage.id)} /> {stage.id}</label>
        ))}
        <a href={`/runs/compare?run=${run.id}&stage=${chosen[0]}`}>Compare with other runs</a>
      </fieldset>
      <Curves sources={chosen.map((stage) => ({ key: `${run.id}.${stage}`, label: stage }))} watch={watch} points={points} />
    </>
  );
}

function Settings({ run }) {
  const command = run.command.map((part) => (/^[\w./:=@-]+$/.test(part) ? part : `'${part.replaceAll("'", "'\\''")}'`)).join(" ");
  return (
    <>
      <dl class="facts">
        <dt>Command</dt><dd><code class="text">{command || "unknown"}</code> {command && <CopyButton text={command} />}</dd>
        <dt>Recipe</dt><dd class="text">{run.recipe_file}{run.overrides.length > 0 && `, with ${run.overrides.join(", ")}`}</dd>
        <dt>Seed</dt><dd>{run.seed}</dd>
        <dt>Folder</dt><dd class="text">{run.folder}</dd>
        <dt>Process</dt><dd>{run.process ? `${run.process.pid} on ${run.process.host}` : "unknown"}</dd>
      </dl>
      <h2>Log of resumed processes</h2>
      {run.log ? <pre class="log text" tabindex="0">{run.log}</pre> : <p class="muted">Never resumed from here. What `bloomery run` said stands in its own terminal.</p>}
    </>
  );
}
