// A new campaign: whose answers to which prompts, judged how and by how many.
import { useState } from "preact/hooks";
import { sendJson } from "../../api.js";
import { go } from "../../router.js";
import { useJson } from "../../ui/load.js";
import { Choice, Empty, Field, Problem, Select, Spinner } from "../../ui/parts.jsx";

const NUMBERS = [
  { name: "samples", label: "Answers of each model to a prompt", min: 1, max: 16 },
  { name: "overlap", label: "Annotators for each item", min: 1, max: 50 },
  { name: "quota", label: "Most votes of one annotator (0: no limit)", min: 0, max: 1000000 },
  { name: "max_tokens", label: "Longest answer, tokens", min: 1, max: 8192 },
  { name: "temperature", label: "Temperature", min: 0, max: 5, step: 0.1 },
];

export function NewCampaign() {
  const { value: sources, error, reload } = useJson("/api/arena/sources");
  if (error) return <><h1>New campaign</h1><Problem error={error} retry={reload} /></>;
  if (!sources) return <><h1>New campaign</h1><Spinner /></>;
  if (!sources.models.length) {
    return (
      <>
        <h1>New campaign</h1>
        <Empty title="No finished model yet" command="bloomery run quickstart"><p>A campaign compares answers of models in this store.</p></Empty>
      </>
    );
  }
  return <><h1>New campaign</h1><Form sources={sources} /></>;
}

function Form({ sources }) {
  const [settings, setSettings] = useState({ name: "", ...sources.defaults });
  const [models, setModels] = useState([]);
  const [from, setFrom] = useState(sources.prompts[0]?.id ?? "");
  const [text, setText] = useState("");
  const [count, setCount] = useState(100);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const set = (name, value) => setSettings({ ...settings, [name]: value });
  const create = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const body = { settings, models, prompts_of: from || null, prompts: from ? "" : text, num_prompts: count };
      const made = await sendJson("POST", "/api/arena/campaigns", body);
      go(`/arena?campaign=${made.key}`);
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  const upload = async (event) => event.currentTarget.files[0] && setText(await event.currentTarget.files[0].text());
  return (
    <form class="stack arena-form" onSubmit={create}>
      <Problem error={error} />
      <Field label="Name">{(id) => <input id={id} required maxLength={80} value={settings.name} onInput={(event) => set("name", event.currentTarget.value)} />}</Field>
      <fieldset class="card">
        <legend>Models</legend>
        {sources.models.map((one) => (
          <label key={one.id} class="arena-check">
            <input
              type="checkbox" checked={models.includes(one.id)}
              onChange={(event) => setModels(event.currentTarget.checked ? [...models, one.id] : models.filter((id) => id !== one.id))}
            /> {one.name} <small>{one.stage}</small>
          </label>
        ))}
      </fieldset>
      <fieldset class="card stack">
        <legend>Prompts</legend>
        <div class="row">
          <Select
            label="From" value={from} onChange={setFrom}
            options={[...sources.prompts.map((one) => ({ value: one.id, label: `${one.name}, held out` })), { value: "", label: "a text" }]}
          />
          <Field label="At most">{(id) => <input id={id} type="number" min={1} max={10000} value={count} onInput={(event) => setCount(event.currentTarget.valueAsNumber)} />}</Field>
        </div>
        {!from && (
          <>
            <Field label="One prompt a line, or JSON lines">{(id) => <textarea id={id} rows={6} value={text} onInput={(event) => setText(event.currentTarget.value)} />}</Field>
            <Field label="Or read a file">{(id) => <input id={id} type="file" accept=".txt,.jsonl,.json" onChange={upload} />}</Field>
          </>
        )}
      </fieldset>
      <fieldset class="card stack">
        <legend>Judging</legend>
        <Choice
          label="What is judged" value={settings.kind} options={[{ value: "pair", label: "Pairs" }, { value: "ranking", label: "Rankings" }]}
          onChange={(kind) => setSettings({ ...settings, kind, answers_per_item: kind === "pair" ? 2 : Math.max(3, settings.answers_per_item) })}
        />
        <div class="row">
          {settings.kind === "ranking" && (
            <Field label="Answers in a ranking">
              {(id) => <input id={id} type="number" min={2} max={9} value={settings.answers_per_item} onInput={(event) => set("answers_per_item", event.currentTarget.valueAsNumber)} />}
            </Field>
          )}
          {NUMBERS.map(({ name, label, ...range }) => (
            <Field key={name} label={label}>
              {(id) => <input id={id} type="number" {...range} value={settings[name]} onInput={(event) => set(name, event.currentTarget.valueAsNumber)} />}
            </Field>
          ))}
        </div>
        <Select
          label="Which items come first" value={settings.rule} onChange={(rule) => set("rule", rule)}
          options={[{ value: "uncertain", label: "models whose comparison is least certain" }, { value: "uniform", label: "any alike" }]}
        />
        <Field label="Guideline, shown beside every comparison">{(id) => <textarea id={id} rows={4} value={settings.guideline} onInput={(event) => set("guideline", event.currentTarget.value)} />}</Field>
      </fieldset>
      <div class="row"><button class="primary" disabled={busy}>Make the campaign and its answers</button><a href="/arena">Cancel</a></div>
    </form>
  );
}
