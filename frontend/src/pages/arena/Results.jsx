// What the votes say: ratings with intervals, also for answers of equal length; who beat whom how often; how far annotators agree.
import { percent, whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Empty, Problem, Spinner, Table } from "../../ui/parts.jsx";

export function Results({ campaign }) {
  const { value, error, reload } = useJson(`/api/arena/campaigns/${encodeURIComponent(campaign.key)}/results`);
  if (error) return <Problem error={error} retry={reload} />;
  if (!value) return <Spinner label="Counting votes" />;
  return (
    <div class="stack">
      {value.ratings ? <Ratings value={value} /> : <Empty title="Nothing to rate yet"><p>{value.missing}</p></Empty>}
      <Agreement value={value.agreement} overlap={campaign.overlap} />
      <section>
        <h2>Export</h2>
        <div class="row">
          <a class="button" download href={`/api/arena/campaigns/${campaign.key}/export?format=votes`}>Votes for training (JSONL)</a>
          <a class="button" download href={`/api/arena/campaigns/${campaign.key}/export?format=csv`}>Table (CSV)</a>
        </div>
        <p class="muted">In a recipe: <code>inputs = {"{"} init = "sft", labels = "file:labels/*.jsonl" {"}"}</code> of <code>reward_model</code> or <code>preference</code>.</p>
      </section>
    </div>
  );
}

function Ratings({ value }) {
  const { standings, names, points, battles } = value.ratings;
  const fair = new Map(value.length_controlled.ratings.map((one) => [one.name, one.rating]));
  const length = value.length_controlled.length_points;
  const all = [...standings.map((one) => one.rating), ...fair.values()];
  const [low, high] = [Math.min(...all.map((one) => one.low)) - 10, Math.max(...all.map((one) => one.high)) + 10];
  const order = standings.map((one) => names.indexOf(one.name));
  const range = (one) => `${whole(one.value)} (${whole(one.low)} to ${whole(one.high)})`;
  return (
    <>
      {value.missing && <p class="arena-missing" role="note"><span class="tag warn">First impression</span> {value.missing} Read the intervals, not the order.</p>}
      <section>
        <h2>Ratings</h2>
        <Table
          caption="Ratings of the models" rows={standings.map((one) => ({ ...one, id: one.name }))}
          columns={[
            { key: "name", label: "Model" },
            { key: "rating", label: "Rating, 95 % interval", align: "right", render: (row) => range(row.rating) },
            { key: "plot", label: "", render: (row) => <Whisker name={row.name} one={row.rating} fair={fair.get(row.name)} low={low} high={high} /> },
            { key: "fair", label: "At equal length", align: "right", render: (row) => range(fair.get(row.name)) },
            { key: "wins", label: "Won", align: "right" }, { key: "ties", label: "Tied", align: "right" }, { key: "losses", label: "Lost", align: "right" },
          ]}
        />
        <p class="muted">
          Bradley-Terry on Elo's scale over {whole(value.battles)} battles on {whole(value.prompts)} prompts ({whole(value.both_bad)} votes were “both bad”, {whole(value.identical)} pairs
          were the same text: both are ties). Prior: as if every two models had met once more and drawn. Upper line: rating; lower line: at equal length.
          An answer one deviation longer than the other {length.value >= 0 ? "gains" : "loses"} {whole(Math.abs(length.value))} points by its length alone ({whole(length.low)} to {whole(length.high)}).
        </p>
      </section>
      <section>
        <h2>Who beat whom</h2>
        <div class="scroll" tabindex="0" role="region" aria-label="Win matrix">
          <table class="arena-matrix">
            <caption class="hidden">Share of the battles that the model of the row won against the model of the column, a tie counting half</caption>
            <thead><tr><th scope="col">won by ↓ against →</th>{order.map((b) => <th key={b} scope="col">{names[b]}</th>)}</tr></thead>
            <tbody>
              {order.map((a) => (
                <tr key={a}>
                  <th scope="row">{names[a]}</th>
                  {order.map((b) => <Cell key={b} points={points[a][b]} battles={battles[a][b]} same={a === b} />)}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </section>
    </>
  );
}

function Cell({ points, battles, same }) {
  if (same || !battles) return <td class="muted">–</td>;
  const share = points / battles;
  const tint = `color-mix(in srgb, var(${share >= 0.5 ? "--good" : "--bad"}) ${Math.round(Math.abs(share - 0.5) * 50)}%, transparent)`;
  return <td style={{ background: tint }}>{percent(share, 0)} <small>of {whole(battles)}</small></td>;
}

function Whisker({ name, one, fair, low, high }) {
  const x = (value) => (200 * (value - low)) / (high - low);
  const line = (interval, y, color) => (
    <g stroke={color} fill={color}>
      <line x1={x(interval.low)} x2={x(interval.high)} y1={y} y2={y} stroke-width="2" />
      <circle cx={x(interval.value)} cy={y} r="3.5" stroke="none" />
    </g>
  );
  return (
    <svg class="arena-whisker" viewBox="0 0 200 22" width="200" height="22" role="img" aria-label={`${name}: ${whole(one.value)}, at equal length ${whole(fair.value)}`}>
      {line(one, 7, "var(--s1)")}
      {line(fair, 16, "var(--s2)")}
    </svg>
  );
}

function Agreement({ value, overlap }) {
  const { krippendorff_alpha: alpha, fleiss_kappa: fleiss, cohen_kappa: cohen } = value;
  const told = (one) => (one.value === null ? "not defined yet" : `${one.value.toFixed(2)} over ${whole(one.items)} items`);
  return (
    <section>
      <h2>Agreement</h2>
      {alpha.value === null ? (
        <p class="muted">{overlap > 1 ? "Not enough yet: agreement needs items that two people have judged, and judgements that differ somewhere." : "This campaign asks one person for each item, so agreement is not known. An overlap of 2 or more measures it."}</p>
      ) : (
        <>
          <p>Krippendorff's α (nominal): <strong>{told(alpha)}</strong>. Fleiss' κ: {told(fleiss)}. 1 is full agreement, 0 what chance gives.</p>
          <Table
            caption="Cohen's kappa of every two annotators" rows={cohen.map((one) => ({ ...one, id: one.annotators.join() }))}
            columns={[
              { key: "annotators", label: "Annotators", render: (row) => row.annotators.join(" and ") },
              { key: "value", label: "Cohen's κ", align: "right", render: (row) => (row.value === null ? "–" : row.value.toFixed(2)) },
              { key: "items", label: "Items of both", align: "right" },
            ]}
          />
        </>
      )}
    </section>
  );
}
