// What a run's models wrote while they learned, and how they were scored.
import { place, setQuery } from "../../router.js";
import { useJson } from "../../ui/load.js";
import { Field, Problem, Select, Spinner } from "../../ui/parts.jsx";

const round = (run) => run.stages.map((stage) => stage.state).join();

export function Samples({ run }) {
  const { value, error, loading, reload } = useJson(`/api/runs/${run.id}/results`, { round: round(run) });
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return <Spinner label="Reading samples" />;
  const stages = Object.keys(value.samples);
  if (!stages.length) return <p class="muted">No stage of this run has written samples yet. Trainings write some at each validation: `num_samples` in their config.</p>;
  const query = place.value.query;
  const stage = stages.includes(query.get("of")) ? query.get("of") : stages[0];
  const rows = value.samples[stage];
  const steps = [...new Set(rows.map((row) => row.step))];
  const last = steps.length - 1;
  const at = Math.min(last, query.has("at") ? Number(query.get("at")) || 0 : last);
  const shown = rows.filter((row) => row.step === steps[at]);
  const first = new Map(rows.filter((row) => row.step === steps[0]).map((row) => [row.prompt, row]));
  return (
    <>
      <div class="row">
        <Select label="Stage" value={stage} options={stages.map((id) => ({ value: id, label: id }))} onChange={(id) => setQuery({ of: id, at: null })} />
        <Field label={`Validation ${at + 1} of ${steps.length}, after step ${steps[at]}`}>
          {(id) => <input id={id} type="range" min="0" max={last} step="1" value={at} onInput={(event) => setQuery({ at: event.currentTarget.value })} />}
        </Field>
        <button type="button" onClick={reload} disabled={loading}>Look again</button>
      </div>
      {shown.map((row) => (
        <article key={row.prompt} class="card sample">
          <p class="text prompt muted">{row.prompt}</p>
          <p class="text"><strong>Step {row.step}</strong> {row.text}</p>
          {at > 0 && first.has(row.prompt) && <details><summary>At step {steps[0]}</summary><p class="text">{first.get(row.prompt).text}</p></details>}
        </article>
      ))}
    </>
  );
}

export function Scores({ run }) {
  const { value, error, reload } = useJson(`/api/runs/${run.id}/results`, { round: round(run) });
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return <Spinner label="Reading scores" />;
  const stages = Object.entries(value.scores);
  if (!stages.length) return <p class="muted">No evaluation of this run is finished. A recipe evaluates with a stage `evaluate`; `bloomery evaluate` does it by hand.</p>;
  return stages.map(([id, scores]) => (
    <section key={id}>
      <h2 class="mono">{id}</h2>
      {scores.tables.map((table) => <ScoreTable key={table.title} table={table} models={scores.models} />)}
      {scores.ratings.map((rating) => <Ratings key={rating.kind} rating={rating} />)}
      {scores.left_out.length > 0 && <details><summary>{scores.left_out.length} benchmarks left out</summary><ul>{scores.left_out.map((one) => <li key={one.name}>{one.name}: {one.why}</li>)}</ul></details>}
    </section>
  ));
}

function ScoreTable({ table, models }) {
  return (
    <div class="scroll" tabindex="0" role="region" aria-label={table.title}>
      <table class="scores-table">
        <caption>{table.title}, with 95 % intervals</caption>
        <thead><tr><th scope="col">Measure</th>{models.map((model) => <th key={model} scope="col">{model}</th>)}</tr></thead>
        <tbody>
          {table.rows.map((row) => (
            <tr key={row.title}>
              <th scope="row" title={row.meaning}>{row.title}<br /><small class="muted meaning">{row.meaning}</small></th>
              {row.cells.map((cell, i) => <td key={models[i]}>{cell ? <Interval cell={cell} row={row} /> : "–"}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Interval({ cell, row }) {
  const format = (x) => (row.is_share ? (100 * x).toFixed(1) : x.toFixed(3));
  const all = row.cells.filter(Boolean).flatMap((c) => [c.low ?? c.value, c.high ?? c.value]);
  const [low, high] = row.is_share ? [0, 1] : [Math.min(...all), Math.max(...all)];
  const at = (x) => (high > low ? 4 + (72 * (x - low)) / (high - low) : 40);
  const has = cell.low !== undefined && cell.high !== undefined;
  return (
    <>
      <b>{format(cell.value)}{row.is_share && " %"}</b> {has && <small class="muted">[{format(cell.low)}, {format(cell.high)}]</small>}
      {has && (
        <svg class="interval" width="80" height="10" aria-hidden="true">
          <line x1="0" x2="80" y1="5" y2="5" class="track" />
          <line x1={at(cell.low)} x2={at(cell.high)} y1="5" y2="5" class="span" />
          <circle cx={at(cell.value)} cy="5" r="3.5" />
        </svg>
      )}
    </>
  );
}

function Ratings({ rating }) {
  return (
    <div class="scroll" tabindex="0" role="region" aria-label={`Ratings, ${rating.kind}`}>
      <table>
        <caption>Ratings of {rating.kind} answers, with 95 % intervals</caption>
        <thead><tr><th scope="col">Model</th><th scope="col">Bradley–Terry</th><th scope="col">Elo</th><th scope="col">Wins / ties / losses</th></tr></thead>
        <tbody>{rating.rows.map((row) => <tr key={row.model}><th scope="row">{row.model}</th><td>{row.bradley_terry}</td><td>{row.elo}</td><td>{row.games}</td></tr>)}</tbody>
      </table>
      {rating.problem && <p class="warn-text">{rating.problem}</p>}
    </div>
  );
}
