// The charts of one or many stages: loaded chart by chart, then live; one tool bar for all of them, its state in the address.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { getJson } from "../../api.js";
import { place, setQuery } from "../../router.js";
import { Chart, LineSample } from "../../ui/Chart.jsx";
import { bytes, compact, number, percent, seconds } from "../../ui/format.js";
import { Choice, Field, Problem, Select, Spinner } from "../../ui/parts.jsx";
import { append, groupMetrics, KNOWN, shortName, smooth } from "./curve_data.js";

const AXES = { step: "Step", tokens: "Tokens", time: "Time", flops: "FLOPs" };
const X_FORMATS = { step: compact, tokens: compact, time: seconds, flops: (x) => (x ? x.toExponential(1) : "0") };
/** What has no noise: smoothed it would only be late. */
const EXACT = ["learning_rate", "memory"];
const NOTES = {
  memory: "The most bytes that one process has needed so far",
  mfu: "Of a GPU's data sheet; on a CPU of the best matrix product measured at the start, which other work can slow down: then above 100 %",
};
const SMOOTHABLE = 12;
const MAX_FAINT = 10;
const MAX_POINTS = 4000;
const MAX_METRICS = 24;
const POINTS_IN_ALL = 48_000;
const AT_ONCE = 8;

/** `sources`: [{key, label}]; `watch(params or null)` and `points` (the last event) join the page's one stream of events. */
export function Curves({ sources, watch, points }) {
  const look = readLook(place.value.query);
  const keys = sources.map((source) => source.key);
  const [isMore, setMore] = useState(false);
  const [state, setState] = useState({ data: {}, names: [], marks: {}, problems: {}, loading: true, error: null });
  const [round, setRound] = useState(0);
  const again = () => setRound((n) => n + 1);
  const request = JSON.stringify([keys, look.x, look.logX, look.range, isMore]);

  useEffect(() => {
    const stop = new AbortController();
    load({ keys, look, isMore, signal: stop.signal, setState, watch }).catch((error) => stop.signal.aborted || setState((old) => ({ ...old, error, loading: false })));
    return () => stop.abort();
  }, [request, round]);
  useEffect(() => () => watch(null), []);

  useEffect(() => {
    if (!points) return;
    setState((old) => {
      const { next, isStale } = take(old, points);
      if (isStale) setTimeout(again, 300);
      return next;
    });
  }, [points]);

  const groups = useMemo(() => groupMetrics(state.names), [state.names]);
  const shown = groups.filter((group) => isMore || !group.isMore);
  const problems = [...new Set(Object.values(state.problems).filter(Boolean))];
  return (
    <div class="curves">
      <Tools look={look} />
      {sources.length > 1 && <Legend sources={sources} />}
      <Problem error={state.error} retry={again} />
      {problems.map((text) => <p key={text} class="muted">{`No curve over ${AXES[look.x]}: ${text}.`}</p>)}
      {state.loading && <Spinner label="Reading the metrics" />}
      {!state.loading && !state.names.length && <p class="muted">Nothing is logged of {sources.length === 1 ? sources[0].label : "these stages"} yet. Curves appear with the first step.</p>}
      <div class="charts">
        {shown.map((group) => (
          <GroupChart key={group.id} group={group} sources={sources} state={state} look={look} />
        ))}
      </div>
      {groups.some((group) => group.isMore) && (
        <button type="button" aria-expanded={isMore} onClick={() => setMore(!isMore)}>
          {isMore ? "Fewer charts" : `${groups.filter((group) => group.isMore).length} more metrics`}
        </button>
      )}
    </div>
  );
}

function GroupChart({ group, sources, state, look }) {
  // Drawn again only when something of this chart is another: fifty runs in seven charts are a million pieces of line.
  const parts = useSame(sources.flatMap(({ key, label }) => [label, ...group.metrics.map((metric) => state.data[key]?.[metric])]));
  const smoothing = EXACT.includes(group.id) ? 0 : look.smoothing;
  const series = useMemo(() => makeSeries(group, sources, state.data, smoothing), [parts, smoothing]);
  const noted = useSame(sources.flatMap(({ key }) => state.marks[key] ?? []).map((mark) => JSON.stringify(mark)));
  const marks = useMemo(() => sources.flatMap(({ key, label }) => (state.marks[key] ?? []).map((mark) => ({ ...mark, text: `${label}: ${mark.text}` }))), [noted]);
  const range = useMemo(() => look.range, [look.range?.[0], look.range?.[1]]);
  const csv = `/api/runs/curves.csv?${new URLSearchParams([...sources.map(({ key }) => ["of", key]), ...group.metrics.map((name) => ["metric", name])])}`;
  const yFormat = group.id === "memory" ? bytes : group.id === "mfu" ? (y) => percent(y, 0) : group.id === "speed" ? compact : number;
  const isLogY = look.logY && !["mfu", "memory"].includes(group.id);
  return (
    <Chart
      title={group.title} series={series} marks={marks} xLabel={AXES[look.x]} xFormat={X_FORMATS[look.x]} yFormat={yFormat} logX={look.logX} logY={isLogY}
      range={range} onZoom={zoom} csv={csv} height={group.isMore || series.length < 1 ? 180 : 240}
      note={NOTES[group.id] ?? (sources.length > 1 && group.metrics.length > 1 ? `Solid: ${shortName(group.metrics[0])}; dashed: ${group.metrics.slice(1).map(shortName).join(", ")}` : null)}
      legend={sources.length === 1}
    />
  );
}

/** The list from before as long as its entries are the same. */
function useSame(list) {
  const before = useRef(list);
  if (before.current.length !== list.length || before.current.some((entry, i) => entry !== list[i])) before.current = list;
  return before.current;
}

function Tools({ look }) {
  return (
    <div class="row curve-tools">
      <Select label="Along" value={look.x} options={Object.entries(AXES).map(([value, label]) => ({ value, label }))} onChange={(x) => setQuery({ x: x === "step" ? null : x, low: null, high: null })} />
      <Choice label="Scale of x" value={look.logX ? "log" : "lin"} options={[{ value: "lin", label: "x linear" }, { value: "log", label: "x log" }]} onChange={(v) => setQuery({ logx: v === "log" ? 1 : null })} />
      <Choice label="Scale of y" value={look.logY ? "log" : "lin"} options={[{ value: "lin", label: "y linear" }, { value: "log", label: "y log" }]} onChange={(v) => setQuery({ logy: v === "log" ? 1 : null })} />
      <Field label={`Smoothing ${look.smoothing.toFixed(2)}`}>
        {(id) => <input id={id} type="range" min="0" max="0.99" step="0.01" value={look.smoothing} onInput={(event) => setQuery({ smooth: Number(event.currentTarget.value) || null })} />}
      </Field>
      <RangeFields look={look} />
    </div>
  );
}

function RangeFields({ look }) {
  const set = (end) => (event) => {
    const text = event.currentTarget.value.trim();
    const other = look.range?.[end === "low" ? 1 : 0];
    const value = Number(text);
    if (text === "" || !Number.isFinite(value)) return zoom(null);
    return zoom(end === "low" ? [value, other ?? value * 2 + 1] : [other ?? 0, value]);
  };
  const shown = (value) => (value === undefined ? "" : String(Number(value.toPrecision(6))));
  return (
    <>
      <Field label="From">{(id) => <input id={id} class="short" inputmode="decimal" value={shown(look.range?.[0])} onChange={set("low")} placeholder="start" />}</Field>
      <Field label="To">{(id) => <input id={id} class="short" inputmode="decimal" value={shown(look.range?.[1])} onChange={set("high")} placeholder="end" />}</Field>
      {look.range && <button type="button" onClick={() => zoom(null)}>Whole range</button>}
    </>
  );
}

function Legend({ sources }) {
  return <ul class="legend" aria-label="Curves">{sources.map((source, i) => <li key={source.key}><LineSample place={i} /> {source.label}</li>)}</ul>;
}

function readLook(query) {
  const x = query.get("x") in AXES ? query.get("x") : "step";
  const [low, high] = [Number(query.get("low")), Number(query.get("high"))];
  const range = query.has("low") && query.has("high") && low < high ? [low, high] : null;
  const smoothing = Math.min(0.99, Math.max(0, Number(query.get("smooth")) || 0));
  return { x, logX: query.get("logx") === "1", logY: query.get("logy") === "1", smoothing, range };
}

const zoom = (range) => setQuery({ low: range ? range[0] : null, high: range ? range[1] : null });

async function load({ keys, look, isMore, signal, setState, watch }) {
  if (!keys.length) return setState({ data: {}, names: [], marks: {}, problems: {}, loading: false, error: null });
  const params = { x: look.x, log: look.logX ? 1 : null, low: look.range?.[0], high: look.range?.[1] };
  params.parts = Math.round(Math.max(100, Math.min(1000, POINTS_IN_ALL / 2 / keys.length)));
  const ask = (of, metrics) => getJson("/api/runs/curves", { ...params, of, metric: metrics, also: KNOWN.slice(0, MAX_METRICS) }, { signal });
  setState((old) => ({ ...old, loading: true, error: null }));
  const loss = ["train/loss", "validation/loss"];
  const found = {};
  let names = [];
  // A few stages at a time: the first curves stand there while the files of fifty runs are still read.
  for (const of of chunks(keys)) {
    Object.assign(found, (await ask(of, loss)).sources);
    names = unite(Object.values(found).map((source) => source.names));
    const pick = (field) => Object.fromEntries(Object.entries(found).map(([key, source]) => [key, source[field]]));
    const loading = Object.keys(found).length < keys.length;
    setState((old) => ({ x: look.x, data: merge(old.x === look.x ? keep(old.data, keys) : {}, found), names, marks: pick("marks"), problems: pick("problem"), loading, error: null }));
  }
  const cursors = Object.fromEntries(Object.entries(found).map(([key, source]) => [key, source.cursor]));
  const asked = new Set(loss);
  for (const group of groupMetrics(names).filter((one) => isMore || !one.isMore)) {
    const missing = group.metrics.filter((name) => !asked.has(name)).slice(0, MAX_METRICS);
    missing.forEach((name) => asked.add(name));
    const more = {};
    for (const of of missing.length ? chunks(keys) : []) Object.assign(more, (await ask(of, missing)).sources);
    setState((old) => ({ ...old, data: merge(old.data, more) }));
  }
  watch({ of: keys, metric: [...asked].slice(0, MAX_METRICS), x: look.x, cursors: JSON.stringify(cursors) });
}

function chunks(keys) {
  return Array.from({ length: Math.ceil(keys.length / AT_ONCE) }, (_, i) => keys.slice(i * AT_ONCE, (i + 1) * AT_ONCE));
}

const keep = (data, keys) => Object.fromEntries(keys.filter((key) => key in data).map((key) => [key, data[key]]));

function merge(data, sources) {
  const merged = { ...data };
  for (const [key, source] of Object.entries(sources)) merged[key] = { ...merged[key], ...source.curves };
  return merged;
}

function unite(lists) {
  return [...new Set(lists.flat())].sort();
}

function take(old, points) {
  let isStale = false;
  const [data, marks] = [{ ...old.data }, { ...old.marks }];
  for (const [key, news] of Object.entries(points)) {
    if (!(key in data)) continue;
    isStale ||= news.reload || (news.names ?? []).some((name) => !old.names.includes(name));
    if (news.reload) continue;
    marks[key] = news.marks;
    data[key] = { ...data[key] };
    for (const [metric, curve] of Object.entries(news.curves)) {
      data[key][metric] = append(data[key][metric], curve);
      isStale ||= data[key][metric].x.length > MAX_POINTS;
    }
  }
  return { next: { ...old, data, marks }, isStale };
}

function makeSeries(group, sources, data, smoothing) {
  const [faint, main] = [[], []];
  sources.forEach(({ key, label }, s) => {
    group.metrics.forEach((metric, m) => {
      const curve = data[key]?.[metric];
      if (!curve) return;
      const many = sources.length > 1;
      const name = [many && label, (group.metrics.length > 1 || !many) && shortName(metric)].filter(Boolean).join(" · ");
      const style = { label: name, place: many ? s : m, dashed: many && m > 0 };
      const isSmoothed = smoothing > 0 && curve.x.length > SMOOTHABLE;
      if (isSmoothed && sources.length <= MAX_FAINT) faint.push({ ...style, key: `${key} ${metric} raw`, x: curve.x, y: curve.y, faint: true });
      const base = isSmoothed ? curve.means ?? curve : curve;
      main.push({ ...style, key: `${key} ${metric}`, x: base.x, y: isSmoothed ? smooth(base.y, smoothing) : base.y });
    });
  });
  return [...faint, ...main];
}
