// The funnel: a bar for what every stage let through, and under it the rules that dropped the rest.
import { place, setQuery } from "../../router.js";
import { bytes, compact, percent, whole } from "../../ui/format.js";
import { Choice } from "../../ui/parts.jsx";

const MEASURES = {
  documents: { label: "Documents", show: whole },
  bytes: { label: "Bytes", show: bytes },
  tokens: { label: "Tokens", show: compact },
};

export function Funnel({ steps, chosen, onChoose }) {
  const measure = MEASURES[place.value.query.get("measure")] ? place.value.query.get("measure") : "documents";
  const most = Math.max(1, ...steps.flatMap((step) => [step[`${measure}_in`] ?? 0, step[`${measure}_out`] ?? 0]));
  return (
    <section aria-labelledby="corpus-funnel" class="card corpus-funnel">
      <div class="corpus-head">
        <h2 id="corpus-funnel">Funnel</h2>
        <Choice label="Measure" value={measure} options={Object.entries(MEASURES).map(([value, { label }]) => ({ value, label }))} onChange={(value) => setQuery({ measure: value === "documents" ? null : value })} />
      </div>
      <ol class="corpus-steps">
        {steps.map((step, place) => <Step key={step.artifact} step={withTokensIn(step, steps[place - 1])} measure={measure} most={most} chosen={step.artifact === chosen.artifact} onChoose={onChoose} />)}
      </ol>
      {measure === "tokens" && steps.some((step) => step.tokens_estimated) && <small>≈ estimated at the tokens for each byte that the run's tokenizer made of the texts it read.</small>}
    </section>
  );
}

/** Tokens are counted of what comes out; what came in is the stage before, where that is what this one read. */
function withTokensIn(step, before) {
  const follows = before && before.documents_out === step.documents_in && before.bytes_out === step.bytes_in;
  return follows ? { ...step, tokens_in: before.tokens_out } : step;
}

function Step({ step, measure, most, chosen, onChoose }) {
  const { show } = MEASURES[measure];
  const [before, after] = [step[`${measure}_in`], step[`${measure}_out`]];
  const dropped = step.drops.reduce((sum, drop) => sum + drop.documents, 0);
  const sign = measure === "tokens" && step.tokens_estimated ? "≈ " : "";
  return (
    <li class={chosen ? "corpus-step chosen" : "corpus-step"}>
      <button type="button" class="corpus-name" aria-pressed={chosen} onClick={() => onChoose(step.artifact)}>
        <strong>{step.node}</strong> <small>{step.stage}</small>
      </button>
      <Bar before={before} after={after} most={most} />
      <span class="corpus-count">{sign}{show(after)}{before ? <small> {percent(after / before)} kept</small> : null}</span>
      {step.drops.length > 0 && (
        <details open={chosen} class="corpus-drops">
          <summary>{step.drops.length === 1 ? "1 rule" : `${step.drops.length} rules`} dropped {whole(dropped)} {dropped === 1 ? "document" : "documents"}</summary>
          <ul>
            {step.drops.map((drop) => <Drop key={drop.rule} drop={drop} step={step} measure={measure} onChoose={onChoose} />)}
          </ul>
        </details>
      )}
    </li>
  );
}

/** What one rule dropped, in the measure of the funnel; in documents where a stage of an older version counted no bytes. */
function Drop({ drop, step, measure, onChoose }) {
  const has = drop[measure] !== null && drop[measure] !== undefined;
  const [gone, came] = has && measure !== "documents" ? [drop[measure], step[`${measure}_in`]] : [drop.documents, step.documents_in];
  const share = came ? gone / came : null;
  return (
    <li>
      <button type="button" class="quiet" aria-label={`${drop.rule}: samples`} onClick={() => onChoose(step.artifact, { tab: "samples", kind: "rule", rule: drop.rule })}>{drop.rule}</button>
      <span class="corpus-bar thin" aria-hidden="true"><span class="gone" style={{ width: `${100 * (share ?? 0)}%` }} /></span>
      <span class="corpus-count">{has ? `${measure === "tokens" ? "≈ " : ""}${MEASURES[measure].show(gone)}` : `${whole(gone)} documents`} {share !== null && <small>{percent(share)}</small>}</span>
    </li>
  );
}

/** What is left, solid, before what came in, hatched. The numbers stand beside it. */
export function Bar({ before, after, most }) {
  const width = (value) => ({ width: `${Math.max(value ? 0.3 : 0, (100 * (value ?? 0)) / most)}%` });
  return (
    <span class="corpus-bar" aria-hidden="true">
      <span class="came" style={width(Math.max(before ?? 0, after ?? 0))} />
      <span class="stayed" style={width(after)} />
    </span>
  );
}
