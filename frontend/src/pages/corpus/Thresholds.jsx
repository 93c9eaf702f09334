// A filter's rules: drag a threshold, see the funnel it would have made from the stored signals, take the TOML along.
import { useEffect, useRef, useState } from "preact/hooks";
import { sendJson } from "../../api.js";
import { place, setQuery } from "../../router.js";
import { bytes, compact, number, percent, whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { CopyButton, Field, Problem, Select, Spinner } from "../../ui/parts.jsx";
import { Bar } from "./Funnel.jsx";
import { Histogram } from "./Histogram.jsx";

const SETTLE_MS = 250;

export function Thresholds({ step }) {
  const rules = useJson("/api/corpus/rules", { artifact: step.artifact });
  const [moved, move] = useMoved();
  if (rules.error) return <Problem error={rules.error} retry={rules.reload} />;
  if (!rules.value) return <Spinner label="Reading the rules" />;
  const all = rules.value.rules;
  const judging = all.filter((rule) => rule.documents > 0);
  const most = judging.reduce((best, rule) => (rule.dropped > best.dropped ? rule : best), judging[0] ?? all[0]);
  const rule = all.find((one) => one.name === place.value.query.get("rule")) ?? most;
  if (!rule) return <p class="muted">This filter has no rule with a threshold.</p>;
  return (
    <>
      <div class="row corpus-tools">
        <Select label="Rule" value={rule.name} options={all.map((one) => ({ value: one.name, label: label(one, moved) }))} onChange={(name) => setQuery({ rule: name })} />
        <ThresholdInput key={rule.name} rule={rule} value={moved[rule.name] ?? rule.threshold} onMove={(value) => move(rule.name, value)} />
        <button type="button" disabled={!(rule.name in moved)} onClick={() => move(rule.name, null)}>As it was ({number(rule.threshold)})</button>
      </div>
      <p class="muted">
        Keeps <span class="mono">{rule.signal}</span> of {rule.keeps} the threshold. Of {whole(rule.documents)} documents that it is for, {whole(rule.broken)} break it
        {rule.dropped === rule.broken ? "" : `, ${whole(rule.dropped)} of them as their first rule`}.
        {Object.entries(rule.threshold_by_language).map(([language, value]) => ` In ${language} the threshold is ${number(value)}, and stays.`)}
        {rule.origin && <> <small>{rule.origin}</small></>}
      </p>
      <Shape step={step} rule={rule} threshold={moved[rule.name] ?? rule.threshold} onMove={(value) => move(rule.name, value)} />
      <WhatIf artifact={step.artifact} moved={moved} />
    </>
  );
}

const label = (rule, moved) => `${rule.name}${rule.dropped ? ` (${whole(rule.dropped)} dropped)` : ""}${rule.name in moved ? " *" : ""}`;

/** Thresholds that were moved, by rule, kept in the address as at=rule:value once they rest. */
function useMoved() {
  const [moved, setMoved] = useState(() => Object.fromEntries(place.value.query.getAll("at").map(parse).filter(Boolean)));
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const move = (name, value) => {
    const { [name]: _, ...others } = moved;
    const next = value === null ? others : { ...others, [name]: value };
    setMoved(next);
    clearTimeout(timer.current); // browsers refuse hundreds of addresses in a few seconds
    timer.current = setTimeout(() => setQuery({ rule: name, at: Object.entries(next).map(([rule, limit]) => `${rule}:${limit}`) }), SETTLE_MS);
  };
  return [moved, move];
}

function parse(text) {
  const colon = text.lastIndexOf(":");
  const value = Number(text.slice(colon + 1));
  return colon > 0 && text.length > colon + 1 && Number.isFinite(value) ? [text.slice(0, colon), value] : null;
}

function ThresholdInput({ rule, value, onMove }) {
  const [text, setText] = useState(String(value));
  const typed = useRef(value);
  if (typed.current !== value) {
    typed.current = value;
    setText(String(value));
  }
  const type = (event) => {
    setText(event.currentTarget.value);
    const next = Number(event.currentTarget.value);
    if (event.currentTarget.value.trim() === "" || !Number.isFinite(next)) return;
    typed.current = next;
    onMove(next);
  };
  return <Field label={`Threshold (${rule.signal})`}>{(id) => <input id={id} class="corpus-value" type="number" step="any" value={text} onInput={type} />}</Field>;
}

function Shape({ step, rule, threshold, onMove }) {
  const { value, error, reload } = useJson("/api/corpus/histogram", { artifact: step.artifact, rule: rule.name });
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return <Spinner label="Reading the signal" />;
  if (value.rule !== rule.name || !value.documents) return <p class="muted">No document was judged by this rule.</p>;
  return (
    <figure class="corpus-figure">
      <Histogram shown={value} threshold={threshold} onMove={onMove} />
      <figcaption>
        <span class="corpus-key stayed" aria-hidden="true" /> kept by the run <span class="corpus-key gone" aria-hidden="true" /> dropped by it, by whichever rule.
        Heights by the root of the count. Drag the line, or use the arrow keys, Page up and down, Home and End.
      </figcaption>
    </figure>
  );
}

function WhatIf({ artifact, moved }) {
  const { value, error, late } = useWhatIf(artifact, moved);
  if (!value) return error ? <Problem error={error} /> : <Spinner label="Judging anew" />;
  const { before, after, toml } = value;
  const rules = [...new Set([...before.dropped, ...after.dropped].map(({ rule }) => rule))];
  const of = (funnel, rule) => funnel.dropped.find((one) => one.rule === rule)?.documents ?? 0;
  const rows = [
    ["Documents kept", before.documents_out, after.documents_out, whole],
    ["Bytes", before.bytes_out, after.bytes_out, bytes],
    ["Tokens, estimated", before.tokens_out, after.tokens_out, compact],
  ];
  return (
    <div class="corpus-whatif">
      <section class="card" aria-labelledby="corpus-new" aria-busy={late}>
        <h3 id="corpus-new">The new funnel</h3>
        <Problem error={error} />
        <Bar before={before.documents_out} after={after.documents_out} most={Math.max(1, before.documents_in)} />
        <p role="status" class="corpus-verdict">{whole(after.documents_out)} of {whole(after.documents_in)} documents kept ({percent(after.documents_out / Math.max(1, after.documents_in))}), {change(after.documents_out - before.documents_out)}{value.gained || value.lost ? ` (${whole(value.gained)} gained, ${whole(value.lost)} lost)` : ""}</p>
        <div class="scroll" tabindex="0" role="region" aria-label="The funnel before and after">
          <table>
            <caption class="hidden">The funnel before and after</caption>
            <thead><tr><th scope="col">What</th><th scope="col" class="right">Run</th><th scope="col" class="right">New</th><th scope="col" class="right">Change</th></tr></thead>
            <tbody>
              {rows.map(([title, old, now, show]) => <Row key={title} title={title} old={old} now={now} show={show} />)}
              {rules.map((rule) => <Row key={rule} title={<span class="mono">− {rule}</span>} old={of(before, rule)} now={of(after, rule)} show={whole} />)}
            </tbody>
          </table>
        </div>
      </section>
      <section class="card" aria-labelledby="corpus-toml">
        <div class="corpus-head"><h3 id="corpus-toml">For the recipe</h3><CopyButton text={toml} label="Copy the TOML" /></div>
        <pre class="text corpus-toml" tabindex="0" aria-labelledby="corpus-toml">{toml}</pre>
        <small>The filter's settings with these thresholds. Replace the line of its stage, then <code>bloomery run</code> makes this stage and what follows anew.</small>
      </section>
    </div>
  );
}

function Row({ title, old, now, show }) {
  const known = old !== null && old !== undefined && now !== null && now !== undefined;
  const difference = known ? now - old : 0;
  const sign = difference > 0 ? "+" : "−";
  return (
    <tr>
      <th scope="row">{title}</th><td class="right">{show(old)}</td><td class="right">{show(now)}</td>
      <td class="right">{!known ? "–" : difference === 0 ? "0" : `${sign}${show(Math.abs(difference))}`}</td>
    </tr>
  );
}

const change = (documents) => (documents === 0 ? "as many as the run kept" : `${whole(Math.abs(documents))} ${documents > 0 ? "more" : "fewer"} than the run kept`);

/** The answer to the newest thresholds. At most one request is under way; of those that wait the last wins. */
function useWhatIf(artifact, thresholds) {
  const [state, setState] = useState({ value: null, error: null, late: true });
  const queue = useRef({ busy: false, next: null, gone: false }).current;
  useEffect(() => {
    queue.gone = false;
    return () => (queue.gone = true);
  }, []);
  useEffect(() => {
    queue.next = { artifact, thresholds };
    setState((old) => ({ ...old, late: true }));
    if (!queue.busy) askAll(queue, setState);
  }, [artifact, JSON.stringify(thresholds)]);
  return state;
}

async function askAll(queue, setState) {
  queue.busy = true;
  while (queue.next && !queue.gone) {
    const body = queue.next;
    queue.next = null;
    try {
      const value = await sendJson("POST", "/api/corpus/what-if", body);
      if (!queue.gone) setState({ value, error: null, late: Boolean(queue.next) });
    } catch (error) {
      if (!queue.gone) setState((old) => ({ ...old, error, late: false }));
    }
  }
  queue.busy = false;
}
