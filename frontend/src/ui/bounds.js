// How far the axes of a chart go.

/** {x: [low, high], y: [low, high]} of all that is drawn; `range` is the part of x that is asked for. Never empty, never without width. */
export function bounds(series, { logX, logY, range }) {
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const { x, y } of series) {
    for (let i = 0; i < x.length; i++) {
      if ((logX && !(x[i] > 0)) || (logY && !(y[i] > 0)) || y[i] === null) continue;
      if (range && (x[i] < range[0] || x[i] > range[1])) continue;
      if (x[i] < x0) x0 = x[i];
      if (x[i] > x1) x1 = x[i];
      if (y[i] < y0) y0 = y[i];
      if (y[i] > y1) y1 = y[i];
    }
  }
  if (range) [x0, x1] = logX && !(range[0] > 0) ? [Math.min(x0, range[1] / 10), range[1]] : range;
  if (!(x1 > -Infinity)) return { x: logX ? [1, 10] : [0, 1], y: logY ? [1, 10] : [0, 1] };
  if (!(y1 > -Infinity)) [y0, y1] = logY ? [1, 10] : [0, 1];
  return { x: roomier(x0, x1, logX, 0), y: roomier(y0, y1, logY, 0.05) };
}

function roomier(low, high, isLog, share) {
  // As good as equal: an axis of ticks closer than floats are would never end.
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (high - low <= 1e-6 * size) return isLog ? [low / 2, high * 2] : [low - (size || 1) * 0.05, high + (size || 1) * 0.05];
  if (isLog) {
    const factor = (high / low) ** share;
    return [low / factor, high * factor];
  }
  return [low - share * (high - low), high + share * (high - low)];
}
