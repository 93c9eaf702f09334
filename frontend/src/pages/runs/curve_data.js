// What is drawn, worked out of what the server sent: which metrics share a chart, smoothing, points that came later.

const NAMES = [
  { id: "loss", title: "Loss", only: ["train/loss", "validation/loss"] },
  { id: "validation_sources", title: "Validation loss by source", prefix: "validation/loss/" },
  { id: "bits", title: "Bits per byte, held-out documents", only: ["validation/bits_per_byte"], prefix: "validation/bits_per_byte/" },
  { id: "train_sources", title: "Training loss by source", prefix: "train/loss/" },
  { id: "reward", title: "Reward", only: ["rollout/reward", "rollout/gold", "validation/gold"] },
  { id: "kl", title: "KL, nats an answer", only: ["rollout/kl"] },
  { id: "accuracy", title: "Chosen over rejected", only: ["train/accuracy", "validation/accuracy"] },
  { id: "learning_rate", title: "Learning rate", only: ["train/learning_rate"] },
  { id: "gradient_norm", title: "Gradient norm", only: ["train/gradient_norm"] },
  { id: "speed", title: "Tokens per second", only: ["train/tokens_per_second"] },
  { id: "mfu", title: "Model FLOP utilisation (MFU)", only: ["train/mfu"] },
  { id: "memory", title: "Memory", only: ["train/memory_bytes"] },
];

/** Metrics that the server is told of beforehand, so that it reads them together. */
export const KNOWN = NAMES.flatMap(({ only = [] }) => only);

/** [{id, title, metrics, isMore}] of the metrics there are: the known ones in our order, then each other one by itself. */
export function groupMetrics(names) {
  const left = new Set(names);
  const groups = [];
  for (const { id, title, only = [], prefix } of NAMES) {
    const metrics = [...only, ...names.filter((name) => prefix && name.startsWith(prefix))].filter((name) => left.has(name));
    metrics.forEach((name) => left.delete(name));
    if (metrics.length) groups.push({ id, title, metrics, isMore: false });
  }
  for (const name of [...left].sort()) groups.push({ id: name, title: name, metrics: [name], isMore: true });
  return groups;
}

/**
 * Exponential moving average with the bias of its beginning taken off, as TensorBoard and W&B draw it: weight 0 changes nothing,
 * 0.99 averages over about a hundred points.
 */
export function smooth(values, weight) {
  if (!(weight > 0)) return values;
  let [average, power] = [0, 1];
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return value;
    average = weight * average + (1 - weight) * value;
    power *= weight;
    return average / (1 - power);
  });
}

/** A curve with points that came later. They may repeat the last ones; x keeps rising. */
export function append(curve, news) {
  if (!curve) return { ...news, points: news.x.length };
  const joined = join(curve, news);
  return { ...joined, points: curve.points + news.x.length, means: curve.means && join(curve.means, news) };
}

function join(old, news) {
  let keep = old.x.length;
  while (keep && old.x[keep - 1] >= news.x[0]) keep--;
  return { x: [...old.x.slice(0, keep), ...news.x], y: [...old.y.slice(0, keep), ...news.y] };
}

/** `train/loss` → "train", `validation/loss/web` → "validation, web": what tells a curve from the others of its chart. */
export function shortName(metric) {
  const parts = metric.split("/");
  return parts.length > 2 ? `${parts[0]}, ${parts.slice(2).join("/")}` : parts[0];
}
