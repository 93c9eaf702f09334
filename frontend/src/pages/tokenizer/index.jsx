// The tokenizer page: one tokenizer or two side by side, over a text, their vocabularies, and their bytes per token.
import { place, setQuery } from "../../router.js";
import { useJson } from "../../ui/load.js";
import { Empty, Problem, Select, Spinner, Tabs } from "../../ui/parts.jsx";
import { TextView } from "./TextView.jsx";
import { Usage } from "./Usage.jsx";
import { Vocabulary } from "./Vocabulary.jsx";

export default function Page() {
  const { value, error, reload } = useJson("/api/tokenizer/list");
  return (
    <>
      <h1>Tokenizer</h1>
      <Problem error={error} retry={reload} />
      {!value && !error && <Spinner label="Looking for tokenizers" />}
      {value && value.tokenizers.length === 0 && (
        <Empty title="No tokenizer in this store yet" command="bloomery run quickstart"><p>A run trains one early; those of checkpoints are shown here, too.</p></Empty>
      )}
      {value && value.tokenizers.length > 0 && <Bench {...value} />}
    </>
  );
}

function Bench({ tokenizers, documents, limits }) {
  const { query } = place.value;
  const first = tokenizers.find((one) => one.id === query.get("a")) ?? tokenizers[0];
  const second = tokenizers.find((one) => one.id === query.get("b")) ?? null;
  const both = second ? [first, second] : [first];
  const options = tokenizers.map((one) => ({ value: one.id, label: `${one.name} (${one.stage})` }));
  const tabs = [
    { id: "text", label: "Text", content: () => <TextView both={both} limit={limits.characters} /> },
    { id: "vocabulary", label: "Vocabulary", content: () => <Vocabulary both={both} /> },
    { id: "usage", label: "Bytes per token", content: () => <Usage both={both} documents={documents} /> },
  ];
  return (
    <div class="stack">
      <div class="row tokenizer-pick">
        <Select label="Tokenizer" value={first.id} options={options} onChange={(id) => setQuery({ a: id })} />
        <Select label="Beside it" value={second?.id ?? ""} options={[{ value: "", label: "no other" }, ...options]} onChange={(id) => setQuery({ b: id })} />
      </div>
      <Tabs tabs={tabs} active={query.get("tab") ?? "text"} onChange={(tab) => setQuery({ tab: tab === "text" ? null : tab })} label="Views of a tokenizer" />
    </div>
  );
}
