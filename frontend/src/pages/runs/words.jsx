// States in words and colours, and the two buttons that change something.
import { useState } from "preact/hooks";
import { sendJson } from "../../api.js";
import { seconds } from "../../ui/format.js";

const TONES = { done: "good", running: "live", stopping: "warn", stopped: "warn", failed: "bad", removed: "bad", damaged: "bad", waiting: "", "left out": "" };
const SIGNS = { done: "✓", running: "▸", stopping: "◼", stopped: "◼", failed: "✕", removed: "✕", damaged: "✕", waiting: "·", "left out": "–" };

export function StateTag({ state }) {
  return <span class={`tag ${TONES[state] ?? ""}`}><span aria-hidden="true">{SIGNS[state] ?? ""}</span> {state}</span>;
}

export function timeLeft(row) {
  if (row.seconds_left === null || row.seconds_left === undefined) return "";
  return `${row.left_is_complete === false ? "at least " : "about "}${seconds(row.seconds_left)} left`;
}

export function Progress({ progress }) {
  if (!progress) return null;
  const share = progress.total ? Math.min(1, progress.done / progress.total) : 0;
  return (
    <span class="progress">
      <progress max="1" value={share} aria-label={`${progress.done} of ${progress.total} ${progress.unit}`} />
      <small>{progress.done.toLocaleString("en")} / {progress.total.toLocaleString("en")} {progress.unit}</small>
    </span>
  );
}

/** Resume, stop, and why neither. What the server said stays until the next click. */
export function Actions({ run, onChange }) {
  const [told, setTold] = useState(null);
  const [busy, setBusy] = useState("");
  const ask = async (what) => {
    setBusy(what);
    try {
      const answer = await sendJson("POST", `/api/runs/${run.id}/${what}`);
      setTold({ text: answer.message });
    } catch (error) {
      setTold({ text: error.message, isBad: true });
    }
    setBusy("");
    onChange?.();
  };
  return (
    <span class="actions">
      {run.can_resume && <button type="button" class="primary" disabled={busy !== ""} onClick={() => ask("resume")}>Resume</button>}
      {run.can_stop && <button type="button" class="danger" disabled={busy !== ""} onClick={() => ask("stop")}>Stop</button>}
      {run.refusal && <small class="muted">Cannot be stopped here: {run.refusal}</small>}
      <small role="status" class={told?.isBad ? "bad-text" : "muted"}>{told?.text}</small>
    </span>
  );
}
