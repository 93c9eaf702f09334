// Every run of the store, newest first, as they change.
import { useMemo, useState } from "preact/hooks";
import { go, place, setQuery } from "../../router.js";
import { useJson } from "../../ui/load.js";
import { Empty, Field, Problem, Select, Spinner } from "../../ui/parts.jsx";
import { useLive } from "./live.js";
import { Progress, StateTag, timeLeft } from "./words.jsx";

const ORDERS = { newest: "Newest first", name: "Name", state: "State" };
const BY_STATE = ["running", "stopping", "failed", "stopped", "removed", "damaged", "waiting", "done"];
const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export function List() {
  const { value, error, reload } = useJson("/api/runs");
  const [changes, setChanges] = useState({});
  const lost = useLive(value ? { list: 1 } : null, {
    runs: (rows) => setChanges((old) => ({ ...old, ...Object.fromEntries(rows.map((row) => [row.id, row])) })),
    gone: (ids) => setChanges((old) => ({ ...old, ...Object.fromEntries(ids.map((id) => [id, null])) })),
  });
  const query = place.value.query;
  const [filter, order] = [query.get("filter") ?? "", query.get("order") ?? "newest"];
  const chosen = query.getAll("run");
  const rows = useMemo(() => sorted(merge(value?.runs ?? [], changes), filter, order), [value, changes, filter, order]);
  const choose = (id) => setQuery({ run: chosen.includes(id) ? chosen.filter((other) => other !== id) : [...chosen, id] });

  return (
    <>
      <h1>Runs</h1>
      <Problem error={error} retry={reload} />
      {!value && !error && <Spinner label="Reading the store" />}
      {value && !value.runs.length && !Object.keys(changes).length && (
        <Empty title={`No run in ${value.store} yet`} command="bloomery run quickstart"><p>A run appears here as soon as it begins.</p></Empty>
      )}
      {value && (value.runs.length > 0 || Object.keys(changes).length > 0) && (
        <>
          <div class="row runs-tools">
            <Field label="Filter">
              {(id) => <input id={id} type="search" value={filter} placeholder="name or state" onInput={(event) => setQuery({ filter: event.currentTarget.value })} />}
            </Field>
            <Select label="Order" value={order} options={Object.entries(ORDERS).map(([key, label]) => ({ value: key, label }))} onChange={(key) => setQuery({ order: key === "newest" ? null : key })} />
            <button type="button" disabled={chosen.length < 2} onClick={() => go(`/runs/compare?${chosen.map((id) => `run=${id}`).join("&")}`)}>
              Compare {chosen.length > 1 ? chosen.length : ""} runs
            </button>
            <small class="muted" role="status">{lost === "lost" ? "Connection lost; trying again" : chosen.length === 1 ? "Choose one more to compare" : ""}</small>
          </div>
          <div class="scroll" tabindex="0" role="region" aria-label="Runs">
            <table class="runs-table">
              <caption class="hidden">Runs of {value.store}</caption>
              <thead>
                <tr>
                  <th scope="col"><span class="hidden">Compare</span></th>
                  <th scope="col">Run</th><th scope="col">State</th><th scope="col">Stages</th><th scope="col">Now</th><th scope="col" class="right">Changed</th>
                </tr>
              </thead>
              <tbody>
                {rows.map((run) => (
                  <tr key={run.id}>
                    <td><input type="checkbox" checked={chosen.includes(run.id)} onChange={() => choose(run.id)} aria-label={`Compare ${run.name}`} /></td>
                    <th scope="row"><a href={`/runs/${run.id}`}>{run.name}</a></th>
                    <td><StateTag state={run.state} /></td>
                    <td>{run.done} of {run.stages}</td>
                    <td class="now">
                      {run.now ? <><span class="mono">{run.now.id}</span> <Progress progress={run.now.progress} /> <small>{timeLeft(run)}</small></> : <small class="muted">{run.reason}</small>}
                    </td>
                    <td class="right"><time dateTime={new Date(run.updated * 1000).toISOString()}>{WHEN.format(run.updated * 1000)}</time></td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          {!rows.length && <p class="muted">No run matches “{filter}”.</p>}
        </>
      )}
    </>
  );
}

function merge(rows, changes) {
  const known = new Map(rows.map((row) => [row.id, row]));
  for (const [id, row] of Object.entries(changes)) {
    if (row) known.set(id, row);
    else known.delete(id);
  }
  return [...known.values()];
}

function sorted(rows, filter, order) {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = rows.filter((row) => words.every((word) => `${row.name} ${row.state}`.toLowerCase().includes(word)));
  const newest = (a, b) => b.updated - a.updated;
  const orders = { newest, name: (a, b) => a.name.localeCompare(b.name), state: (a, b) => BY_STATE.indexOf(a.state) - BY_STATE.indexOf(b.state) || newest(a, b) };
  return kept.sort(orders[order] ?? newest);
}
