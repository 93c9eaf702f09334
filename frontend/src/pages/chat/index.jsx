// The chat page: which models, how answers are drawn, and either a conversation or a text that models continue.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { setQuery } from "../../router.js";
import { compact } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Choice, Empty, Field, Problem, Spinner } from "../../ui/parts.jsx";
import { Completion } from "./Completion.jsx";
import { Conversation } from "./Conversation.jsx";
import { FIELDS, readSettings, writeSetting } from "./settings.js";

const MAX_COLUMNS = 4;
const VIEWS = [{ value: "formatted", label: "Formatted" }, { value: "plain", label: "Plain" }, { value: "tokens", label: "Tokens" }];

export default function Page() {
  const { value, error, reload } = useJson("/api/chat/models");
  const settings = readSettings();
  return (
    <div class="chat-page">
      <h1>Chat</h1>
      <Problem error={error} retry={reload} />
      {!value && !error && <Spinner label="Looking for models" />}
      {value && value.models.length === 0 && (
        <Empty title="No model in this store yet" command="bloomery run quickstart">
          <p>A run makes one; a finished checkpoint can be talked to while the rest of its run goes on.</p>
        </Empty>
      )}
      {value && value.models.length > 0 && <Room models={value.models} limits={value.limits} settings={settings} reload={reload} />}
    </div>
  );
}

function Room({ models, limits, settings, reload }) {
  const known = settings.models.length > 0;
  const ids = known ? settings.models : [defaultModel(models).id];
  const columns = ids.map((id) => models.find((model) => model.id === id) ?? { id, name: "a model that is gone", missing: true });
  const mode = settings.mode ?? (columns[0].is_chat || columns[0].missing ? "chat" : "completion");
  const dropColumn = useRef(null); // what is shown below knows what stands in a column
  const setModels = (next) => setQuery({ model: next });
  // A model opens in the mode that suits it; who adds or removes one stays in the mode that he is in.
  const setColumns = (next) => setQuery({ model: next, mode });
  useEffect(() => {
    if (!known) setModels(ids);
  }, [known]);
  const { view } = settings;
  const Content = mode === "completion" ? Completion : Conversation;
  return (
    <>
      <div class="chat-head row">
        {columns.map((model, place) => (
          <ModelPicker
            key={place} place={place} count={columns.length} models={models} model={model}
            onChange={(id) => setModels(ids.map((old, i) => (i === place ? id : old)))}
            onRemove={() => {
              dropColumn.current?.(place);
              setColumns(ids.filter((_, i) => i !== place));
            }}
          />
        ))}
        {columns.length < MAX_COLUMNS && (
          <button type="button" onClick={() => setColumns([...ids, nextModel(models, ids)])}>Compare with another</button>
        )}
        <Choice
          label="Mode" value={mode} onChange={(next) => setQuery({ mode: next })}
          options={[{ value: "chat", label: "Chat" }, { value: "completion", label: "Completion" }]}
        />
        {(mode === "chat" || columns.length > 1) && (
          <Choice
            label="Show answers as" value={mode === "chat" ? view : view === "formatted" ? "plain" : view}
            onChange={(next) => setQuery({ view: next === "formatted" ? null : next })} options={mode === "chat" ? VIEWS : VIEWS.slice(1)}
          />
        )}
      </div>
      <SamplingControls settings={settings} />
      <Content columns={columns} settings={settings} limits={limits} onAnswered={reload} dropColumn={dropColumn} />
    </>
  );
}

function ModelPicker({ place, count, models, model, onChange, onRemove }) {
  const groups = useMemo(() => groupByRun(models), [models]);
  const label = count > 1 ? `Model ${place + 1}` : "Model";
  const what = model.missing ? "not in this store" : `${compact(model.params)} parameters, reads ${compact(model.context_tokens)} tokens${model.state === "loaded" ? ", loaded" : ""}`;
  return (
    <div class="chat-model">
      <Field label={label} hint={what}>
        {(id) => (
          <select id={id} value={model.id} onChange={(event) => onChange(event.currentTarget.value)}>
            {model.missing && <option value={model.id}>{model.name}</option>}
            {groups.map(([run, members]) => (
              <optgroup key={run} label={run}>
                {members.map((one) => (
                  <option key={one.id} value={one.id} selected={one.id === model.id}>
                    {one.name} ({one.stage}{one.is_chat ? "" : ", completes"})
                  </option>
                ))}
              </optgroup>
            ))}
          </select>
        )}
      </Field>
      {count > 1 && <button type="button" class="quiet" onClick={onRemove} aria-label={`Remove model ${place + 1}`}>✕</button>}
    </div>
  );
}

function SamplingControls({ settings }) {
  const changed = FIELDS.filter(({ name, value }) => settings[name] !== value).length + (settings.seed !== "") + (settings.stop.length > 0);
  const details = useRef(null);
  const [wasOpen] = useState(changed > 0);
  return (
    <details class="chat-sampling" ref={details} open={wasOpen}>
      <summary>Sampling and seed{changed ? ` (${changed} changed)` : ""}</summary>
      <div class="chat-fields">
        {FIELDS.map((field) => (
          <Field key={field.name} label={field.label} hint={field.hint}>
            {(id) => (
              <input
                id={id} type="number" min={field.min} max={field.max} step={field.step} value={settings[field.name]}
                onChange={(event) => writeSetting(field.name, event.currentTarget.value)}
              />
            )}
          </Field>
        ))}
        <Field label="Seed" hint="empty: a new one each time">
          {(id) => <input id={id} type="number" min="0" step="1" value={settings.seed} onChange={(event) => writeSetting("seed", event.currentTarget.value)} />}
        </Field>
        <Field label="Stop at" hint="ends an answer; \n is a line end">
          {(id) => (
            <input
              id={id} type="text" maxLength={200} value={settings.stop[0]?.replace(/\n/g, "\\n") ?? ""}
              onChange={(event) => setQuery({ stop: event.currentTarget.value.replace(/\\n/g, "\n") || null })}
            />
          )}
        </Field>
      </div>
    </details>
  );
}

function groupByRun(models) {
  const groups = new Map();
  for (const model of models) {
    const run = model.name.includes("/") ? model.name.split("/")[0] : "other artifacts";
    groups.set(run, [...(groups.get(run) ?? []), model]);
  }
  return [...groups];
}

/** The last chat model of the newest run that has one; else the newest model. */
function defaultModel(models) {
  const first = models.find((model) => model.is_chat);
  if (!first) return models[0];
  const run = first.name.split("/")[0];
  return models.filter((model) => model.is_chat && model.name.split("/")[0] === run).at(-1);
}

function nextModel(models, taken) {
  const run = models.find((model) => model.id === taken[0])?.name.split("/")[0];
  const free = models.filter((model) => !taken.includes(model.id));
  return (free.filter((model) => model.is_chat && model.name.split("/")[0] === run)[0] ?? free[0] ?? models[0]).id;
}
