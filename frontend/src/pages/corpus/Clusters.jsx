// Clusters of duplicates, largest first; of a chosen one the copies beside the one that was kept, word by word.
import { useState } from "preact/hooks";
import { place, setQuery } from "../../router.js";
import { percent, whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Problem, Spinner } from "../../ui/parts.jsx";
import { CutText, tell } from "./Doc.jsx";

const PAGE = 20;
const EDGE = 160;
const MEMBERS = 5;

export function Clusters({ step }) {
  const offset = Math.max(0, Number(place.value.query.get("from")) || 0);
  const { value, error, loading, reload } = useJson("/api/corpus/clusters", { artifact: step.artifact, offset, limit: PAGE });
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return loading && <Spinner label="Reading the clusters" />;
  if (!value.total) return <p class="muted">This stage found no duplicates.</p>;
  const chosen = place.value.query.get("cluster") ?? value.clusters[0]?.id;
  return (
    <div class="corpus-clusters">
      <nav aria-label="Clusters">
        <p class="muted">{whole(value.total)} {value.total === 1 ? "cluster" : "clusters"}, largest first</p>
        <ol start={offset + 1}>
          {value.clusters.map((cluster) => (
            <li key={cluster.id}>
              <button type="button" aria-pressed={cluster.id === chosen} onClick={() => setQuery({ cluster: cluster.id })}>
                <strong>{whole(cluster.size)} copies</strong>
                {cluster.members.slice(0, MEMBERS).map((member) => (
                  <span key={member.id} class="corpus-member mono">{member.kept ? "kept" : member.similarity === null || member.similarity === undefined ? "gone" : percent(member.similarity, 0)} {member.url || member.id}</span>
                ))}
                {cluster.size > Math.min(MEMBERS, cluster.members.length) && <span class="corpus-member">and {whole(cluster.size - Math.min(MEMBERS, cluster.members.length))} more</span>}
              </button>
            </li>
          ))}
        </ol>
        {value.total > PAGE && (
          <p class="row">
            <button type="button" disabled={offset === 0} onClick={() => setQuery({ from: Math.max(0, offset - PAGE) || null, cluster: null })}>Larger</button>
            <button type="button" disabled={offset + PAGE >= value.total} onClick={() => setQuery({ from: offset + PAGE, cluster: null })}>Smaller</button>
          </p>
        )}
      </nav>
      {chosen !== undefined && <Cluster key={chosen} artifact={step.artifact} cluster={chosen} />}
    </div>
  );
}

function Cluster({ artifact, cluster }) {
  const { value, error, loading, reload } = useJson("/api/corpus/cluster", { artifact, cluster });
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return loading && <Spinner label="Comparing the copies" />;
  return (
    <section aria-label="The copies of this cluster">
      <article class="card corpus-doc kept">
        <p class="corpus-url mono text"><span class="tag good">kept</span> {value.kept?.url || value.kept?.id}</p>
        <CutText text={value.kept?.text} characters={value.kept?.characters} />
      </article>
      <p class="muted">Against the kept copy: <del class="corpus-del">only in the kept one</del>, <ins class="corpus-ins">only in this one</ins>.</p>
      {value.others.map((other) => <Other key={other.doc.id} other={other} />)}
      {value.size > value.others.length + 1 && <p class="muted">{whole(value.size - value.others.length - 1)} more copies are not shown.</p>}
    </section>
  );
}

function Other({ other }) {
  const same = other.segments.every((segment) => segment.op === "same");
  return (
    <article class="card corpus-doc dropped">
      <p class="corpus-url mono text"><span class="tag bad">dropped</span> {other.doc.url || other.doc.id}</p>
      <p class="muted">{other.similarity !== null && other.similarity !== undefined && `${percent(other.similarity, 0)} alike. `}{!other.segments.length ? "Its text is stored no more." : same && "What was compared is the same."}</p>
      {other.skipped > 0 && <p class="muted">The first {whole(other.skipped)} characters are the same.</p>}
      {other.segments.length ? <div class="text corpus-text" dir="auto">{other.segments.map((segment, place) => <Segment key={place} {...segment} />)}</div> : <CutText text={other.doc.text} characters={other.doc.characters} />}
      <p class="corpus-actions"><button type="button" class="quiet" onClick={() => tell(other.doc.id)}>What happened to it</button></p>
    </article>
  );
}

function Segment({ op, text }) {
  if (op === "removed") return <del class="corpus-del">{text}</del>;
  if (op === "added") return <ins class="corpus-ins">{text}</ins>;
  return <Same text={text} />;
}

/** What is the same matters by its ends only. */
function Same({ text }) {
  const [open, setOpen] = useState(false);
  if (open || text.length < 2 * EDGE + 80) return text;
  return (
    <>
      {text.slice(0, EDGE)}
      <button type="button" class="quiet corpus-fold" onClick={() => setOpen(true)}>… {whole(text.length - 2 * EDGE)} characters the same …</button>
      {text.slice(-EDGE)}
    </>
  );
}
