// Bytes per token by language and source: what the training measured, or measured now on documents of the store.
import { place, setQuery } from "../../router.js";
import { bytes, number, percent, whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Choice, Empty, Problem, Select, Spinner } from "../../ui/parts.jsx";

export function Usage({ both, documents }) {
  const { query } = place.value;
  const group = query.get("group") ?? "language";
  // Two are compared on the same text; one alone has its own report, if it was trained here.
  const fallback = both.length === 1 && both[0].kind === "tokenizer" ? "report" : documents[0]?.id ?? "report";
  const on = query.get("on") ?? fallback;
  const options = [
    { value: "report", label: "the report of its training" },
    ...documents.map((one) => ({ value: one.id, label: `${one.name} (${one.held_out ? "held-out text" : "all text"})` })),
  ];
  const params = (tokenizer) => (on === "report" ? { tokenizer: tokenizer.id } : { tokenizer: tokenizer.id, documents: on });
  const first = useJson("/api/tokenizer/usage", params(both[0]));
  const second = useJson(both[1] ? "/api/tokenizer/usage" : null, both[1] ? params(both[1]) : {});
  const found = [first, ...(both[1] ? [second] : [])];
  const ready = found.every((one) => one.value && !one.error);
  return (
    <div class="stack">
      <div class="row">
        <Select label="Measured on" value={on} options={options} onChange={(next) => setQuery({ on: next })} />
        <Choice
          label="By" value={group} onChange={(next) => setQuery({ group: next === "language" ? null : next })}
          options={[{ value: "language", label: "By language" }, { value: "source", label: "By source" }]}
        />
      </div>
      {found.map((one, i) => <Problem key={i} error={one.error && new Error(`${both[i].name}: ${one.error.message}`)} />)}
      {!ready && found.some((one) => one.loading) && <Spinner label="Measuring" />}
      {ready && <Rows both={both} found={found.map((one) => one.value)} group={group} />}
    </div>
  );
}

function Rows({ both, found, group }) {
  const names = [...new Set(found.flatMap((one) => one.by[group]?.map((row) => row.name) ?? []))];
  const rowOf = (one, name) => (name === null ? one.total : one.by[group]?.find((row) => row.name === name));
  const most = Math.max(...found.flatMap((one) => [one.total, ...(one.by[group] ?? [])].map((row) => row.bytes_per_token)), 0.001);
  if (!found[0].total.tokens) return <Empty title="These documents hold no text" />;
  return (
    <>
      <p class="muted">More bytes a token is shorter: the model reads further with the same number of tokens. Where most tokens are single bytes, the tokenizer has hardly seen the language.</p>
      <div class="scroll" tabindex="0" role="region" aria-label="Bytes per token">
        <table>
          <caption class="hidden">Bytes per token by {group}</caption>
          <thead>
            <tr>
              <th scope="col">{group === "language" ? "Language" : "Source"}</th><th scope="col" class="right">Text</th>
              {both.map((one) => <th key={one.id} scope="col">{both.length > 1 ? one.name : "Bytes per token"}</th>)}
              {both.map((one) => <th key={one.id} scope="col" class="right">Single bytes{both.length > 1 && `, ${one.name}`}</th>)}
            </tr>
          </thead>
          <tbody>
            {[null, ...names].map((name) => (
              <tr key={name ?? ""}>
                <th scope="row" class="tokenizer-name">{name ?? "all text"}</th>
                <td class="right" title={`${whole(rowOf(found[0], name)?.documents)} documents`}>{bytes(rowOf(found[0], name)?.bytes ?? rowOf(found[1], name)?.bytes)}</td>
                {found.map((one, i) => <td key={i}><Bar value={rowOf(one, name)?.bytes_per_token} most={most} series={i + 1} /></td>)}
                {found.map((one, i) => <td key={i} class="right">{percent(rowOf(one, name)?.one_byte_fraction)}</td>)}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function Bar({ value, most, series }) {
  return (
    <span class="tokenizer-bar">
      <svg width="120" height="12" viewBox="0 0 120 12" aria-hidden="true"><rect width={((value ?? 0) / most) * 120} height="12" rx="2" fill={`var(--s${series})`} /></svg>
      {number(value, 3)}
    </span>
  );
}
