// Documents that a stage kept beside those it dropped: at random, near a rule's threshold, or dropped by one rule.
import { place, setQuery } from "../../router.js";
import { number } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Choice, Problem, Select, Spinner } from "../../ui/parts.jsx";
import { Doc } from "./Doc.jsx";

const COUNT = 4;
const MOST = 50;

export function Samples({ step }) {
  const query = place.value.query;
  const kinds = [
    { value: "random", label: "Random" },
    step.can.signals && { value: "near", label: "Near the threshold" },
    step.drops.length > 0 && { value: "rule", label: "One rule" },
  ].filter(Boolean);
  const kind = kinds.some(({ value }) => value === query.get("kind")) ? query.get("kind") : "random";
  const rules = useJson(kind === "near" ? "/api/corpus/rules" : null, { artifact: step.artifact });
  const names = kind === "near" ? (rules.value?.rules ?? []).filter((rule) => rule.documents > 0).map((rule) => rule.name) : kind === "rule" ? step.drops.map((drop) => drop.rule) : [];
  const rule = kind === "random" ? null : names.includes(query.get("rule")) ? query.get("rule") : names[0];
  const seed = Number(query.get("seed")) || 0;
  const count = Math.min(MOST, Number(query.get("count")) || COUNT);
  const ready = kind === "random" || rule;
  const { value, error, loading, reload } = useJson(ready ? "/api/corpus/samples" : null, { artifact: step.artifact, kind, rule, seed, count });
  const more = () => (kind === "near" ? setQuery({ count: Math.min(MOST, count + COUNT) }) : setQuery({ seed: seed + 1 }));
  const judged = rules.value?.rules.find((one) => one.name === rule);
  return (
    <>
      <div class="row corpus-tools">
        <Choice label="Which documents" value={kind} options={kinds} onChange={(value) => setQuery({ kind: value, seed: null, count: null })} />
        {kind !== "random" && names.length > 0 && <Select label="Rule" value={rule} options={names.map((name) => ({ value: name, label: name }))} onChange={(name) => setQuery({ rule: name, count: null })} />}
        <button type="button" onClick={more} disabled={kind === "near" && count >= MOST}>{kind === "near" ? "More of them" : "Draw others"}</button>
        {loading && <small role="status">Drawing …</small>}
      </div>
      {kind === "near" && judged && <p class="muted">{judged.name} keeps {judged.signal} of {judged.keeps} {number(judged.threshold)}. The nearest on both sides, nearest first.</p>}
      <Problem error={error ?? rules.error} retry={reload} />
      {!value && loading && <Spinner label="Drawing documents" />}
      {value && (
        <div class="corpus-sides">
          <Side title="Kept" side="kept" docs={value.kept} none="This stage kept no such document." />
          <Side title="Dropped" side="dropped" docs={value.dropped} none={step.drops.length ? "No such document was dropped." : "This stage dropped nothing."} />
        </div>
      )}
    </>
  );
}

function Side({ title, side, docs, none }) {
  return (
    <section aria-label={title}>
      <h3>{title}</h3>
      {docs.length ? docs.map((doc) => <Doc key={doc.id} doc={doc} side={side} />) : <p class="muted">{none}</p>}
    </section>
  );
}
