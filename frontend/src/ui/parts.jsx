// Small parts that every page uses.
import { useEffect, useId, useRef, useState } from "preact/hooks";

/** What went wrong, in the server's words, and a button to try again if the page gives one. */
export function Problem({ error, retry }) {
  if (!error) return null;
  return (
    <div class="problem" role="alert">
      <p>{error.message}</p>
      {retry && <button type="button" onClick={retry}>Try again</button>}
    </div>
  );
}

/** A page or part that has nothing to show yet: says why and which command makes it. */
export function Empty({ title, command, children }) {
  return (
    <div class="empty">
      <h2>{title}</h2>
      {children}
      {command && <p class="command"><code>{command}</code> <CopyButton text={command} /></p>}
    </div>
  );
}

export function Spinner({ label = "Loading" }) {
  return <p class="spinner" role="status"><span aria-hidden="true" /> {label} …</p>;
}

export function CopyButton({ text, label = "Copy" }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return <button type="button" class="quiet" onClick={copy} aria-live="polite">{done ? "Copied" : label}</button>;
}

/** A labelled control: <Field label="Seed">{(id) => <input id={id} />}</Field>. */
export function Field({ label, hint, children }) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children(id)}
      {hint && <small>{hint}</small>}
    </div>
  );
}

/** `options`: [{value, label, disabled?}]. */
export function Select({ label, value, options, onChange, hint }) {
  return (
    <Field label={label} hint={hint}>
      {(id) => (
        <select id={id} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
          {options.map((option) => (
            <option key={option.value} value={option.value} disabled={option.disabled} selected={option.value === value}>{option.label}</option>
          ))}
        </select>
      )}
    </Field>
  );
}

/** One of a few, as buttons side by side. */
export function Choice({ label, value, options, onChange }) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map((option) => (
        <button key={option.value} type="button" aria-pressed={option.value === value} onClick={() => onChange(option.value)}>{option.label}</button>
      ))}
    </div>
  );
}

/** Tabs after the ARIA pattern: arrows move, the panel is labelled. `tabs`: [{id, label, content: () => node}]. */
export function Tabs({ tabs, active, onChange, label }) {
  const base = useId();
  const current = tabs.find((tab) => tab.id === active) ?? tabs[0];
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(current) + step + tabs.length) % tabs.length];
    onChange(next.id);
    document.getElementById(`${base}-${next.id}`)?.focus();
  };
  return (
    <div class="tabs">
      <div role="tablist" aria-label={label} onKeyDown={move}>
        {tabs.map((tab) => (
          <button
            key={tab.id} id={`${base}-${tab.id}`} type="button" role="tab" aria-selected={tab === current} aria-controls={`${base}-panel`}
            tabindex={tab === current ? 0 : -1} onClick={() => onChange(tab.id)}
          >
            {tab.label}
          </button>
        ))}
      </div>
      <div id={`${base}-panel`} role="tabpanel" aria-labelledby={`${base}-${current.id}`} tabindex="0">{current.content()}</div>
    </div>
  );
}

/** `columns`: [{key, label, align?: "right", render?: (row) => node}]; a row needs `id` or its place is its key. */
export function Table({ caption, columns, rows, rowProps }) {
  return (
    <div class="scroll" tabindex="0" role="region" aria-label={caption}>
      <table>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>{columns.map((column) => <th key={column.key} scope="col" class={column.align}>{column.label}</th>)}</tr>
        </thead>
        <tbody>
          {rows.map((row, place) => (
            <tr key={row.id ?? place} {...rowProps?.(row)}>
              {columns.map((column) => <td key={column.key} class={column.align}>{column.render ? column.render(row) : row[column.key]}</td>)}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** A modal <dialog>: focus is kept inside by the browser, Escape closes. */
export function Dialog({ open, title, onClose, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
    if (!open && dialog.current.open) dialog.current.close();
  }, [open]);
  return (
    <dialog ref={dialog} onClose={onClose} aria-label={title}>
      <header><h2>{title}</h2><button type="button" class="quiet" onClick={onClose} aria-label="Close">✕</button></header>
      {open && children}
    </dialog>
  );
}
