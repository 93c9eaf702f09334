// One document, as text: never as markup, never as a link.
import { useState } from "preact/hooks";
import { setQuery } from "../../router.js";
import { number, whole } from "../../ui/format.js";

const SHORT = 700;
const LINES = 14;

export function Doc({ doc, side }) {
  return (
    <article class={`card corpus-doc ${side ?? ""}`}>
      <p class="corpus-url mono text" dir="auto">{doc.url || doc.id}</p>
      <p class="corpus-tags">
        {doc.language && <span class="tag">{doc.language}</span>}
        {doc.source && <span class="tag">{doc.source}</span>}
        <span class="tag">{whole(doc.characters)} characters</span>
      </p>
      <Reason doc={doc} side={side} />
      <CutText text={doc.text} characters={doc.characters} />
      {doc.is_whole === false && doc.characters <= doc.text.length && <small>Only its beginning is stored.</small>}
      <p class="corpus-actions">
        <button type="button" class="quiet" onClick={() => tell(doc.id)}>What happened to it</button>
        {doc.kept_id && <button type="button" class="quiet" onClick={() => tell(doc.kept_id)}>The copy that was kept</button>}
      </p>
    </article>
  );
}

/** Opens the story of a document above the funnel. */
export function tell(document) {
  setQuery({ document }, { replace: false });
  scrollTo(0, 0);
}

function Reason({ doc, side }) {
  if (!doc.rule && doc.value === undefined) return null;
  return (
    <p class="corpus-reason">
      <span class={side === "kept" ? "tag good" : "tag bad"}>{side === "kept" ? "kept" : "dropped"}</span>
      {doc.rule && side !== "kept" && <> by <strong class="mono">{doc.rule}</strong></>}
      {doc.value !== undefined && doc.value !== null && <>: <span class="mono">{doc.signal ?? "value"}</span> {number(doc.value)}</>}
      {doc.threshold !== undefined && doc.threshold !== null && <>, threshold {number(doc.threshold)}</>}
      {doc.detail && <span class="text"> ({doc.detail})</span>}
    </p>
  );
}

/** The beginning of a long text, and a button for the rest of what the server sent. */
export function CutText({ text, characters, short = SHORT }) {
  const [whole_, setWhole] = useState(false);
  if (!text) return <p class="muted">No text is stored.</p>;
  const beginning = text.split("\n", LINES).join("\n").slice(0, short).trimEnd();
  const cut = text.length > beginning.length + 80;
  return (
    <>
      <div class="text corpus-text" dir="auto">{cut && !whole_ ? `${beginning} …` : text}</div>
      {cut && (
        <button type="button" class="quiet" aria-expanded={whole_} onClick={() => setWhole(!whole_)}>
          {whole_ ? "Show less" : "Show all of what was sent"}
        </button>
      )}
      {characters > text.length && (whole_ || !cut) && <small> {whole(text.length)} of {whole(characters)} characters were sent.</small>}
    </>
  );
}
