// Sampling and models as they stand in the address, so that a comparison can be shared.
import { place, setQuery } from "../../router.js";

export const FIELDS = [
  { name: "temperature", label: "Temperature", value: 0.8, min: 0, max: 5, step: 0.05, hint: "0 takes the likeliest token" },
  { name: "top_p", label: "Top-p", value: 1, min: 0.01, max: 1, step: 0.01, hint: "1 is off" },
  { name: "top_k", label: "Top-k", value: 0, min: 0, max: 1000000, step: 1, hint: "0 is off" },
  { name: "min_p", label: "Min-p", value: 0, min: 0, max: 1, step: 0.01, hint: "0 is off" },
  { name: "repetition_penalty", label: "Repetition penalty", value: 1, min: 0.1, max: 10, step: 0.05, hint: "1 is off" },
  { name: "max_tokens", label: "Most tokens", value: 256, min: 1, max: 4096, step: 1, hint: "of an answer" },
  { name: "top", label: "Alternatives", value: 5, min: 0, max: 10, step: 1, hint: "kept for each token" },
];

export function readSettings() {
  const { query } = place.value;
  const values = Object.fromEntries(FIELDS.map(({ name, value }) => [name, query.has(name) && query.get(name) !== "" ? Number(query.get(name)) : value]));
  return {
    models: query.getAll("model").slice(0, 4),
    mode: query.get("mode"),
    view: query.get("view") ?? "formatted",
    seed: query.get("seed") ?? "",
    stop: query.getAll("stop").slice(0, 8),
    ...values,
  };
}

export function writeSetting(name, value) {
  const field = FIELDS.find((one) => one.name === name);
  setQuery({ [name]: field && Number(value) === field.value ? null : value });
}

/** What the server is sent; numbers that are none stay as they are, so that it can say what is wrong with them. */
export function samplingOf(settings) {
  const names = FIELDS.map(({ name }) => name).filter((name) => name !== "top");
  return { ...Object.fromEntries(names.map((name) => [name, settings[name]])), stop: settings.stop };
}
