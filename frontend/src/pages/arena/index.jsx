// The arena: campaigns, and of one of them the comparison that is to be judged, what the votes say, and its state.
import { sendJson } from "../../api.js";
import { place, setQuery } from "../../router.js";
import { whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Empty, Problem, Spinner, Table, Tabs } from "../../ui/parts.jsx";
import { NewCampaign } from "./NewCampaign.jsx";
import { Results } from "./Results.jsx";
import { State } from "./State.jsx";
import { Vote } from "./Vote.jsx";

export default function Page() {
  const query = place.value.query;
  const key = query.get("campaign");
  if (query.get("view") === "new") return <NewCampaign />;
  return key ? <Campaign key={key} id={key} view={query.get("view") ?? "vote"} /> : <List />;
}

function List() {
  const { value, error, reload } = useJson("/api/arena/campaigns");
  const rows = value?.campaigns.map((one) => ({ ...one, id: one.key })) ?? [];
  return (
    <>
      <div class="row arena-head">
        <h1>Arena</h1>
        <a class="button" href="/arena?view=new">New campaign</a>
      </div>
      <Problem error={error} retry={reload} />
      {!value && !error && <Spinner />}
      {value && !rows.length && (
        <Empty title="No campaign yet" command="bloomery labels create first --model quickstart/sft --model quickstart/dpo --prompts quickstart/skills">
          <p>A campaign shows people two answers without names and asks which is better. Their votes rate the models and train new ones.</p>
          <p><a href="/arena?view=new">Make one here</a>, or by a command:</p>
        </Empty>
      )}
      {rows.length > 0 && (
        <Table
          caption="Campaigns" rows={rows}
          columns={[
            { key: "name", label: "Campaign", render: (row) => <a href={`/arena?campaign=${row.key}`}>{row.name}</a> },
            { key: "kind", label: "Compares", render: (row) => (row.kind === "pair" ? "pairs" : `rankings of ${row.answers_per_item}`) },
            { key: "num_models", label: "Models", align: "right" },
            { key: "answers", label: "Answers", align: "right", render: (row) => `${whole(row.answers.made)} of ${whole(row.answers.wanted)}` },
            { key: "overlap", label: "Overlap", align: "right" },
            { key: "is_open", label: "State", render: (row) => <span class={`tag ${row.is_open ? "good" : ""}`}>{row.is_open ? "open" : "closed"}</span> },
          ]}
        />
      )}
    </>
  );
}

function Campaign({ id, view }) {
  const { value: campaign, error, reload } = useJson(`/api/arena/campaigns/${encodeURIComponent(id)}`);
  if (error) return <><h1>Arena</h1><Problem error={error} retry={reload} /><p><a href="/arena">All campaigns</a></p></>;
  const send = async (path, body) => {
    await sendJson("POST", `/api/arena/campaigns/${encodeURIComponent(id)}/${path}`, body);
    reload();
  };
  return (
    <>
      <div class="row arena-head">
        <h1>{campaign?.name ?? "Arena"}</h1>
        <a href="/arena">All campaigns</a>
      </div>
      {!campaign && <Spinner />}
      {campaign && (
        <Tabs
          label="Campaign" active={view} onChange={(name) => setQuery({ view: name === "vote" ? null : name }, { replace: false })}
          tabs={[
            { id: "vote", label: "Vote", content: () => <Vote campaign={campaign} reload={reload} /> },
            { id: "results", label: "Results", content: () => <Results campaign={campaign} /> },
            { id: "state", label: "Campaign", content: () => <State campaign={campaign} reload={reload} send={send} /> },
          ]}
        />
      )}
    </>
  );
}
