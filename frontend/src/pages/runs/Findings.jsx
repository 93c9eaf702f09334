// What the doctor found in a run's trainings; looked for again when a stage changes, and every minute while one trains.
import { useEffect, useState } from "preact/hooks";
import { number } from "../../ui/format.js";
import { useJson } from "../../ui/load.js";

const TONES = { error: "bad", warning: "warn", note: "" };
const AGAIN_MS = 60_000;

export function Findings({ run }) {
  const [minute, setMinute] = useState(0);
  const trained = run.stages.filter((stage) => stage.has_curves && !["waiting", "left out"].includes(stage.state));
  const isRunning = trained.some((stage) => stage.state === "running");
  useEffect(() => {
    if (!isRunning) return undefined;
    const timer = setInterval(() => setMinute((n) => n + 1), AGAIN_MS);
    return () => clearInterval(timer);
  }, [isRunning]);
  const { value } = useJson(trained.length ? `/api/runs/${run.id}/findings` : null, { round: `${trained.map((stage) => stage.state).join()} ${minute}` });
  const found = value?.findings ?? [];
  if (!found.length) return null;
  return (
    <details class="card findings" open={found.some((finding) => finding.severity !== "note")}>
      <summary><strong>The doctor: {counted(found)}</strong></summary>
      <ul>
        {found.map((finding) => (
          <li key={`${finding.node} ${finding.code} ${finding.step}`}>
            <details>
              <summary>
                <span class={`tag ${TONES[finding.severity] ?? ""}`}>{finding.severity}</span> <span class="mono">{finding.node}</span>: {finding.title}
                {finding.step !== null && <small class="muted"> (step {finding.step})</small>}
              </summary>
              <p class="text"><strong>What to do:</strong> {finding.remedy}</p>
              <p class="muted"><span class="mono">{finding.code}</span>{Object.entries(finding.evidence).map(([name, x]) => <span key={name}> · {name} {number(x)}</span>)}</p>
            </details>
          </li>
        ))}
      </ul>
    </details>
  );
}

function counted(found) {
  const words = ["error", "warning", "note"].map((severity) => [found.filter((one) => one.severity === severity).length, severity]);
  return words.filter(([count]) => count).map(([count, severity]) => `${count} ${severity}${count > 1 ? "s" : ""}`).join(", ");
}
