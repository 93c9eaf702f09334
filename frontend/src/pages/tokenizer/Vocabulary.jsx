// What is in a vocabulary: entries that contain or begin with a text, or whose id begins with a number.
import { useEffect, useRef, useState } from "preact/hooks";
import { place, setQuery } from "../../router.js";
import { whole } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";
import { Choice, Field, Problem, Spinner, Table } from "../../ui/parts.jsx";
import { hexOf, visible, wellFormed } from "../../ui/tokens.js";

const PAGE = 50;
const PAUSE_MS = 200;

export function Vocabulary({ both }) {
  const { query } = place.value;
  const how = query.get("how") ?? "contains";
  const sought = query.get("search") ?? "";
  const [typed, setTyped] = useState(sought);
  const timer = useRef(null);
  const write = (next) => {
    setTyped(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setQuery({ search: wellFormed(next) }), PAUSE_MS);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  return (
    <div class="stack">
      <div class="row">
        <Field label={how === "id" ? "Id, or its first digits" : "Part of a token (blanks count)"}>
          {(id) => <input id={id} type="search" maxLength={200} value={typed} spellcheck={false} onInput={(event) => write(event.currentTarget.value)} />}
        </Field>
        <Choice
          label="Search" value={how} onChange={(next) => setQuery({ how: next === "contains" ? null : next })}
          options={[{ value: "contains", label: "Contains" }, { value: "begins", label: "Begins with" }, { value: "id", label: "Id" }]}
        />
      </div>
      <div class={`tokenizer-sides tokenizer-sides-${both.length}`}>
        {both.map((one) => <Found key={`${one.id} ${how} ${sought}`} tokenizer={one} how={how} sought={sought} many={both.length > 1} />)}
      </div>
    </div>
  );
}

const COLUMNS = [
  { key: "id", label: "Id", align: "right" },
  { key: "text", label: "Token", render: (row) => <code class={row.special ? "tokenizer-special" : "tokenizer-entry"}>{visible(row)}</code> },
  { key: "bytes", label: "Bytes", render: (row) => (row.special ? <span class="muted">special</span> : <code>{hexOf(row)}</code>) },
  { key: "num_bytes", label: "Length", align: "right" },
];

function Found({ tokenizer, how, sought, many }) {
  const [offset, setOffset] = useState(0);
  const { value, error, reload } = useJson("/api/tokenizer/vocabulary", { tokenizer: tokenizer.id, how, text: sought, offset, limit: PAGE });
  return (
    <section class="tokenizer-side" aria-label={`Vocabulary of ${tokenizer.name}`}>
      {many && <h2>{tokenizer.name}</h2>}
      <Problem error={error} retry={reload} />
      {!value && !error && <Spinner />}
      {value && (
        <>
          <p aria-live="polite">{whole(value.num_found)} of {whole(value.vocab_size)} entries</p>
          {value.num_found > 0 && <Table caption={`Entries of ${tokenizer.name}`} columns={COLUMNS} rows={value.rows} />}
          {value.num_found > PAGE && (
            <div class="row tokenizer-pages">
              <button type="button" disabled={offset === 0} onClick={() => setOffset(Math.max(0, offset - PAGE))}>Earlier</button>
              <span class="muted">{whole(offset + 1)} to {whole(Math.min(offset + PAGE, value.num_found))}</span>
              <button type="button" disabled={offset + PAGE >= value.num_found} onClick={() => setOffset(offset + PAGE)}>Later</button>
            </div>
          )}
        </>
      )}
    </section>
  );
}
