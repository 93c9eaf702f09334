// How far a campaign has come: answers, items, annotators; making what is missing, closing and opening.
import { useEffect, useState } from "preact/hooks";
import { seconds, whole } from "../../ui/format.js";
import { Problem, Table } from "../../ui/parts.jsx";

export function State({ campaign, reload, send }) {
  const [error, setError] = useState(null);
  const { answers, progress } = campaign;
  const making = answers.state === "running" || answers.state === "waiting";
  useEffect(() => {
    if (!making) return undefined;
    const timer = setInterval(reload, 2000);
    return () => clearInterval(timer);
  }, [making]);
  const act = (path, body) => () => send(path, body).catch(setError);
  return (
    <div class="stack">
      <Problem error={error} />
      {answers.state.startsWith("failed") && <Problem error={new Error(`Answers could not be made. ${answers.state.slice(8)}`)} />}
      <section class="card">
        <h2>Answers</h2>
        <progress max={answers.wanted} value={answers.made} aria-label="Answers made" />
        <p aria-live="polite">{whole(answers.made)} of {whole(answers.wanted)} made{making ? ", more are being made" : ""}.</p>
        {answers.made < answers.wanted && !making && <button type="button" onClick={act("answers", {})}>Make the missing answers</button>}
      </section>
      <section class="card">
        <h2>Items</h2>
        <p>
          {whole(progress.items)} items of {whole(progress.prompts)} prompts; {whole(progress.finished)} have the {whole(campaign.overlap)} {campaign.overlap === 1 ? "vote" : "votes"} that are
          wanted, {whole(progress.begun)} have one or more. {whole(progress.votes)} votes, {whole(progress.skips)} skips. {whole(progress.identical)} pairs are the same text and not asked about.
        </p>
        <button type="button" class={campaign.is_open ? "danger" : ""} onClick={act("open", { is_open: !campaign.is_open })}>
          {campaign.is_open ? "Close the campaign" : "Open it again"}
        </button>
      </section>
      <section>
        <h2>Annotators</h2>
        {progress.annotators.length === 0 && <p class="muted">Nobody has voted yet.</p>}
        {progress.annotators.length > 0 && (
          <Table
            caption="Annotators" rows={progress.annotators.map((one) => ({ ...one, id: one.name }))}
            columns={[
              { key: "name", label: "Name" }, { key: "votes", label: "Votes", align: "right" },
              { key: "quota", label: "Quota", align: "right", render: (row) => (row.quota ?? campaign.quota) || "none" },
              { key: "skips", label: "Skips", align: "right" }, { key: "undone", label: "Undone", align: "right" },
              { key: "median_seconds", label: "Median time of a vote", align: "right", render: (row) => seconds(row.median_seconds) },
            ]}
          />
        )}
      </section>
    </div>
  );
}
