// Between the values of a signal and places on a histogram's axis (0 to 1). Bins are equally wide, whatever their scale;
// where the axis goes on beyond the bins to a threshold, that part has a width of its own.
const BEYOND = 0.08;

/** {at(value) -> 0..1, value(at) -> value, round(value) -> value, low, high} of a histogram as the server tells it. */
export function makeScale({ edges, low, high, is_log }) {
  const bins = edges.length - 1;
  const knots = edges.map((value, place) => [value, place]);
  if (low < edges[0]) knots.unshift([low, -bins * BEYOND]);
  if (high > edges[bins]) knots.push([high, bins * (1 + BEYOND)]);
  const [first, last] = [knots[0][1], knots.at(-1)[1]];
  const between = (from, to, x, a, b) => (to === from ? a : a + ((b - a) * (x - from)) / (to - from));
  const at = (value) => {
    const x = Math.min(Math.max(value, knots[0][0]), knots.at(-1)[0]);
    const next = Math.max(1, knots.findIndex(([knot]) => knot >= x));
    const [[v0, p0], [v1, p1]] = [knots[next - 1], knots[next]];
    const place = is_log && v0 > 0 ? between(Math.log(v0), Math.log(v1), Math.log(x), p0, p1) : between(v0, v1, x, p0, p1);
    return (place - first) / (last - first);
  };
  const value = (share) => {
    const place = first + Math.min(Math.max(share, 0), 1) * (last - first);
    const next = Math.max(1, knots.findIndex(([, knot]) => knot >= place - 1e-9));
    const [[v0, p0], [v1, p1]] = [knots[next - 1], knots[next]];
    return is_log && v0 > 0 ? Math.exp(between(p0, p1, place, Math.log(v0), Math.log(v1))) : between(p0, p1, place, v0, v1);
  };
  // As many digits as a hundredth of the axis can tell apart here: what is copied should read as a person would write it.
  const round = (x) => {
    const step = Math.abs(value(at(x) + 0.01) - value(at(x) - 0.01)) / 2;
    if (!(step > 0)) return x;
    const digits = Math.floor(Math.log10(step));
    return Number((Math.round(x / 10 ** digits) * 10 ** digits).toFixed(Math.max(0, -digits)));
  };
  return { at, value, round, low: knots[0][0], high: knots.at(-1)[0] };
}

/** A handful of round values of the axis that are not on top of each other. */
export function ticks(scale, { is_log }, most = 7) {
  const candidates = is_log && scale.high > 0 ? roundLogs(scale) : roundSteps(scale, most);
  const shown = [];
  for (const value of candidates) {
    const at = scale.at(value);
    if (shown.every((tick) => Math.abs(tick.at - at) > 0.8 / most)) shown.push({ value, at });
  }
  return shown;
}

function roundLogs({ low, high }) {
  const found = [];
  for (let power = Math.floor(Math.log10(Math.max(low, high * 1e-9, 1e-9))); 10 ** power <= high; power += 1) found.push(power);
  const values = [1, 3].flatMap((times) => found.map((power) => Number((times * 10 ** power).toPrecision(1))));
  return values.filter((value) => value >= low && value <= high);
}

function roundSteps({ low, high }, most) {
  if (!(high > low)) return [low];
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= raw);
  const values = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) values.push(Number((n * step).toPrecision(12)));
  return values;
}
