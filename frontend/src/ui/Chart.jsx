// Curves on a canvas (uPlot), each with an x of its own. Whoever uses it gives data; zoom, the read-out under the mouse and PNG are here.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { bounds } from "./bounds.js";
import { compact, number } from "./format.js";

const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const READ_OUT_ROWS = 12;
const FEW_POINTS = 40;
const MANY_CURVES = 12;

/** The colour and dash of the n-th curve: eight colours, then the same ones dashed. */
export const lineStyle = (place) => ({ color: `var(--s${(place % 8) + 1})`, dash: DASHES[Math.floor(place / 8) % DASHES.length] });

/** A short piece of a curve's line, for legends. */
export function LineSample({ place }) {
  const { color, dash } = lineStyle(place);
  return (
    <svg class="line-sample" width="26" height="10" aria-hidden="true">
      <line x1="0" y1="5" x2="26" y2="5" style={{ stroke: color }} stroke-width="2.5" stroke-dasharray={dash.join(" ")} />
    </svg>
  );
}

/**
 * `series`: [{key, label, place, x, y, faint?, dashed?}], x rising. `place` picks colour and dash. `range`: [low, high] of x or null.
 * `marks`: [{x, text}]. `legend`: whether the chart has one of its own. onZoom(range) is called with null to see everything again.
 */
export function Chart({ title, series, marks = [], xLabel, xFormat = compact, yFormat = number, logX, logY, range, onZoom, height = 240, csv, note, legend }) {
  const figure = useRef(null);
  const box = useRef(null);
  const plot = useRef(null);
  const given = useRef(null);
  const [at, setAt] = useState(null);
  const [theme, setTheme] = useState(0);
  const isSeen = useIsSeen(figure);
  given.current = { series, marks, xFormat, yFormat, onZoom, setAt, bounds: given.current?.bounds };

  useEffect(() => {
    const redraw = () => setTheme((n) => n + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", redraw);
    dark.addEventListener("change", redraw);
    return () => {
      removeEventListener("themechange", redraw);
      dark.removeEventListener("change", redraw);
    };
  }, []);

  const shape = JSON.stringify([series.map((s) => [s.key, s.place, s.faint, s.dashed]), logX, logY, height, theme]);
  useEffect(() => {
    if (!series.length || !isSeen) return undefined;
    const frame = box.current;
    const size = () => ({ width: Math.max(160, frame.clientWidth), height });
    given.current.bounds = bounds(series, { logX, logY, range });
    const made = new uPlot({ ...options(given, { logX, logY }), ...size() }, facets(series, { logX, logY }), frame);
    plot.current = made;
    const observer = new ResizeObserver(() => size().width !== made.width && made.setSize(size()));
    observer.observe(frame);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, isSeen]);

  useEffect(() => {
    if (!plot.current) return;
    const { x, y } = (given.current.bounds = bounds(series, { logX, logY, range }));
    plot.current.setData(facets(series, { logX, logY }), false);
    plot.current.batch(() => {
      plot.current.setScale("x", { min: x[0], max: x[1] });
      plot.current.setScale("y", { min: y[0], max: y[1] });
    });
  }, [series, marks, range, shape]);

  const shown = series.filter((s) => !s.faint);
  const told = shown.slice(0, 8).map((s) => `${s.label}: ${s.y.length ? yFormat(s.y[s.y.length - 1]) : "nothing"}`);
  return (
    <figure ref={figure} class="chart card" data-points={shown.reduce((sum, s) => sum + s.x.length, 0)}>
      <figcaption>
        <h3>{title}</h3>
        <span class="tools">
          {range && <button type="button" class="quiet" onClick={() => onZoom?.(null)}>Whole range</button>}
          {csv && <a class="button quiet" href={csv} download="bloomery-curves.csv" aria-label={`${title} as CSV`}>CSV</a>}
          <button type="button" class="quiet" onClick={() => savePng(box.current, title, shown)} disabled={!series.length} aria-label={`${title} as PNG`}>PNG</button>
        </span>
      </figcaption>
      {note && <p class="muted note">{note}</p>}
      {legend && shown.length > 1 && <ul class="legend" aria-label={`Curves of ${title}`}>{shown.map((s) => <li key={s.key}><LineSample place={s.place} /> {s.label}</li>)}</ul>}
      {series.length ? (
        <div ref={box} class="plot" style={{ minHeight: `${height}px` }} role="img" aria-label={`${title} over ${xLabel}. ${shown.length} curves; last values: ${told.join(", ")}`} />
      ) : (
        <p class="muted">Nothing logged yet.</p>
      )}
      <ReadOut at={at} series={shown} xLabel={xLabel} xFormat={xFormat} yFormat={yFormat} />
    </figure>
  );
}

/** Whether an element is near the part of the page that is seen: charts far away are not drawn at each change. */
function useIsSeen(element) {
  const [isSeen, setSeen] = useState(false);
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => setSeen(entries[entries.length - 1].isIntersecting), { rootMargin: "120px" });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return isSeen;
}

function ReadOut({ at, series, xLabel, xFormat, yFormat }) {
  if (!at) return null;
  const rows = series.map((s) => ({ ...s, value: nearest(s, at.x) })).filter((s) => s.value !== null);
  rows.sort((a, b) => Math.abs(a.value.y - at.y) - Math.abs(b.value.y - at.y));
  return (
    <div class="read-out" style={{ left: `${Math.min(at.left, at.width - 190)}px` }} aria-hidden="true">
      <strong>{xLabel} {xFormat(at.x)}</strong>
      {rows.slice(0, READ_OUT_ROWS).map((s) => (
        <div key={s.key}><LineSample place={s.place} /> {s.label} <b>{yFormat(s.value.y)}</b></div>
      ))}
      {rows.length > READ_OUT_ROWS && <div class="muted">and {rows.length - READ_OUT_ROWS} more</div>}
      {at.mark && <div class="warn-text">{at.mark}</div>}
    </div>
  );
}

function options(given, { logX, logY }) {
  const css = getComputedStyle(document.documentElement);
  const colour = (name) => css.getPropertyValue(name).trim();
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--muted"), grid, ticks: grid, font: "12px system-ui, sans-serif" };
  const pick = (format) => (_, values) => values.map((value) => (value === null ? "" : given.current[format](value)));
  return {
    mode: 2,
    padding: [8, 14, 0, 0],
    legend: { show: false },
    cursor: {
      points: { show: false },
      y: false,
      drag: { x: true, y: false, setScale: false },
      bind: { dblclick: () => () => given.current.onZoom?.(null) },
    },
    scales: {
      x: { time: false, distr: logX ? 3 : 1, auto: false, range: () => given.current.bounds.x },
      y: { distr: logY ? 3 : 1, auto: false, range: () => given.current.bounds.y },
    },
    axes: [
      { ...axis, values: pick("xFormat"), space: 64, size: 30 },
      { ...axis, values: pick("yFormat"), size: 62, space: 34 },
    ],
    series: [
      {},
      ...given.current.series.map((s) => {
        const { color, dash } = lineStyle(s.place);
        const stroke = colour(color.slice(4, -1));
        return {
          stroke: s.faint ? `${stroke}44` : stroke,
          width: s.faint || given.current.series.length > MANY_CURVES ? 1 : 1.6,
          dash: s.dashed ? [5, 4] : dash,
          facets: [{ scale: "x", auto: false, sorted: 1 }, { scale: "y", auto: false }],
          paths: uPlot.paths.linear(),
          points: { show: false },
        };
      }),
    ],
    hooks: {
      setSelect: [
        (u) => {
          if (u.select.width < 6) return;
          const [low, high] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          given.current.onZoom?.([low, high]);
        },
      ],
      setCursor: [
        (u) => {
          const { left, top } = u.cursor;
          if (left < 0) return given.current.setAt(null);
          const mark = given.current.marks.find((m) => Math.abs(u.valToPos(m.x, "x") - left) < 5);
          const x = u.posToVal(left, "x");
          return given.current.setAt({ x, y: u.posToVal(top, "y"), left: left + u.bbox.left / devicePixelRatio + 14, width: u.width, mark: mark?.text });
        },
      ],
      draw: [(u) => drawMarks(u, given.current.marks, colour("--warn")), (u) => drawPoints(u, given.current.series, colour)],
    },
  };
}

function drawMarks(u, marks, colour) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.beginPath();
  for (const mark of marks) {
    const x = Math.round(u.valToPos(mark.x, "x", true));
    if (!(x >= bbox.left && x <= bbox.left + bbox.width)) continue;
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
  }
  ctx.stroke();
  ctx.restore();
}

// A curve of few points shows them, too.
function drawPoints(u, series, colour) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (const { x, y, place, faint } of series) {
    if (faint || x.length > FEW_POINTS) continue;
    ctx.fillStyle = colour(lineStyle(place).color.slice(4, -1));
    for (let i = 0; i < x.length; i++) {
      ctx.beginPath();
      ctx.arc(u.valToPos(x[i], "x", true), u.valToPos(y[i], "y", true), 2.6 * devicePixelRatio, 0, 2 * Math.PI);
      if (Number.isFinite(y[i])) ctx.fill();
    }
  }
  ctx.restore();
}

// What a logarithmic axis cannot show is left out.
function facets(series, { logX, logY }) {
  const positive = (values) => values.map((value) => (value > 0 ? value : null));
  return [null, ...series.map(({ x, y }) => [logX ? positive(x) : x, logY ? positive(y) : y])];
}

function nearest({ x, y }, at) {
  if (!x.length) return null;
  let [low, high] = [0, x.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] < at) low = middle;
    else high = middle;
  }
  const place = Math.abs(x[low] - at) <= Math.abs(x[high] - at) ? low : high;
  return y[place] === null ? null : { x: x[place], y: y[place] };
}

/** The chart as a picture: its title, its legend, what the canvas shows. */
function savePng(box, title, series) {
  const source = box.querySelector("canvas");
  const css = getComputedStyle(document.documentElement);
  const scale = devicePixelRatio;
  const rows = series.slice(0, 16);
  const head = 34 * scale;
  const canvas = document.createElement("canvas");
  canvas.width = source.width;
  canvas.height = head + source.height + (rows.length > 1 ? (rows.length * 18 + 10) * scale : 0);
  const ctx = canvas.getContext("2d");
  ctx.fillStyle = css.getPropertyValue("--raised");
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.drawImage(source, 0, head);
  ctx.fillStyle = css.getPropertyValue("--text");
  ctx.font = `600 ${15 * scale}px system-ui, sans-serif`;
  ctx.fillText(title, 12 * scale, 22 * scale);
  ctx.font = `${12 * scale}px system-ui, sans-serif`;
  rows.forEach((s, i) => {
    if (rows.length < 2) return;
    const y = head + source.height + (i * 18 + 12) * scale;
    const { color, dash } = lineStyle(s.place);
    ctx.strokeStyle = css.getPropertyValue(color.slice(4, -1));
    ctx.lineWidth = 2 * scale;
    ctx.setLineDash(dash.map((d) => d * scale));
    ctx.beginPath();
    ctx.moveTo(12 * scale, y);
    ctx.lineTo(40 * scale, y);
    ctx.stroke();
    ctx.fillText(s.label, 48 * scale, y + 4 * scale);
  });
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${title.replace(/[^\w-]+/g, "_")}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}
