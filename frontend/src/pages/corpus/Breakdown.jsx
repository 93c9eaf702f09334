// What a stage kept, by language, domain or source.
import { place, setQuery } from "../../router.js";
import { bytes, percent, whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Choice, Problem, Spinner, Table } from "../../ui/parts.jsx";

const BY = { language: "Languages", domain: "Domains", source: "Sources" };
const FIRST = 20;
const MOST = 200;

export function Breakdown({ step }) {
  const query = place.value.query;
  const by = BY[query.get("by")] ? query.get("by") : "language";
  const limit = query.get("count") ? MOST : FIRST;
  const { value, error, loading, reload } = useJson("/api/corpus/breakdown", { artifact: step.artifact, by, limit });
  const ours = value?.by === by ? value : null;
  const most = Math.max(1e-9, ...(ours?.rows ?? []).map((row) => row.share));
  const columns = [
    { key: "value", label: BY[by].slice(0, -1), render: (row) => <span class="text mono">{row.value || "(none)"}</span> },
    { key: "bar", label: "Share of documents", render: (row) => <span class="corpus-share"><span class="corpus-bar thin" aria-hidden="true"><span class="stayed" style={{ width: `${(100 * row.share) / most}%` }} /></span> {percent(row.share)}</span> },
    { key: "documents", label: "Documents", align: "right", render: (row) => whole(row.documents) },
    { key: "bytes", label: "Bytes", align: "right", render: (row) => `${value.bytes_estimated && row.bytes !== null ? "≈ " : ""}${bytes(row.bytes)}` },
  ];
  return (
    <>
      <div class="row corpus-tools"><Choice label="By" value={by} options={Object.entries(BY).map(([key, label]) => ({ value: key, label }))} onChange={(key) => setQuery({ by: key, count: null })} /></div>
      <Problem error={error} retry={reload} />
      {!ours && loading && <Spinner label="Counting" />}
      {ours && !ours.rows.length && <p class="muted">No document is left to count.</p>}
      {ours && ours.rows.length > 0 && <Table caption={`${BY[by]} of the documents kept`} columns={columns} rows={ours.rows} />}
      {ours?.bytes_estimated && <small>≈ shared out by the characters that the filter counted: these texts are too large to be measured now.</small>}
      {ours?.others?.values > 0 && (
        <p class="muted corpus-more">
          {whole(ours.others.values)} more with {whole(ours.others.documents)} documents{ours.others.bytes === null ? "" : `, ${bytes(ours.others.bytes)}`}.{" "}
          {limit < MOST && <button type="button" class="quiet" onClick={() => setQuery({ count: MOST })}>Show more</button>}
        </p>
      )}
    </>
  );
}
