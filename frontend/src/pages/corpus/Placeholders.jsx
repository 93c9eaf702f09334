// Personal data that a redact stage replaced: how often, and documents with the placeholders marked.
import { place, setQuery } from "../../router.js";
import { whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Problem, Spinner, Table } from "../../ui/parts.jsx";
import { tell } from "./Doc.jsx";

const COUNT = 6;

export function Placeholders({ step }) {
  const seed = Number(place.value.query.get("seed")) || 0;
  const { value, error, loading, reload } = useJson("/api/corpus/pii", { artifact: step.artifact, seed, count: COUNT });
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return loading && <Spinner label="Reading the documents" />;
  const columns = [{ key: "kind", label: "Kind", render: (row) => <span class="text">{row.kind}</span> }, { key: "replacements", label: "Replacements", align: "right", render: (row) => whole(row.replacements) }];
  return (
    <>
      {value.mode === "count" && <p class="muted">This stage only counted: what is marked is still there.</p>}
      {value.mode === "fake" && <p class="muted">What is marked was made up in the place of what stood there.</p>}
      {value.kinds.length ? <div class="corpus-narrow"><Table caption="Replacements by kind" columns={columns} rows={value.kinds} /></div> : <p class="muted">Nothing was replaced.</p>}
      <div class="row corpus-tools corpus-more">
        <button type="button" onClick={() => setQuery({ seed: seed + 1 })} disabled={!value.samples.length}>Draw others</button>
        <small>{whole(value.documents)} {value.documents === 1 ? "document has" : "documents have"} some.</small>
      </div>
      {!value.samples.length && <p class="muted">No document with a placeholder was found.</p>}
      {value.samples.map((sample) => (
        <article key={sample.id} class="card corpus-doc">
          <p class="corpus-url mono text">{sample.url || sample.id}</p>
          {sample.skipped > 0 && <p class="muted">From character {whole(sample.skipped)} on.</p>}
          <div class="text corpus-text" dir="auto">
            {sample.segments.map((segment, at) => (segment.kind ? <mark key={at} class="corpus-mark">{segment.text}<small class="corpus-kind">{segment.kind}</small></mark> : segment.text))}
          </div>
          <p class="corpus-actions"><button type="button" class="quiet" onClick={() => tell(sample.id)}>What happened to it</button></p>
        </article>
      ))}
    </>
  );
}
