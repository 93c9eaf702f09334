// How a signal is distributed, with the rule's threshold as a line that is dragged or moved by keys.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { compact, number, whole } from "../../ui/format.js";
import { makeScale, ticks } from "./scale.js";

const HEIGHT = 210;
const FOOT = 24;
const HEAD = 18;
const KEYS = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1 };

export function Histogram({ shown, threshold, onMove }) {
  const frame = useRef(null);
  const width = useWidth(frame);
  const scale = useMemo(() => makeScale(shown), [shown]);
  const move = (share) => onMove(scale.round(scale.value(share)));
  const from = (event) => {
    const box = frame.current.getBoundingClientRect();
    return (event.clientX - box.left) / box.width;
  };
  const drag = (event) => {
    if (event.button !== 0) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    move(from(event));
    frame.current.querySelector("[role=slider]").focus();
    event.preventDefault();
  };
  const press = (event) => {
    const ends = { Home: scale.low, End: scale.high };
    if (event.key in ends) onMove(ends[event.key]);
    else if (event.key in KEYS) onMove(nudge(scale, threshold, KEYS[event.key]));
    else return;
    event.preventDefault();
  };
  const line = scale.at(threshold);
  return (
    <div
      ref={frame} class="corpus-histogram" onPointerDown={drag}
      onPointerMove={(event) => event.currentTarget.hasPointerCapture(event.pointerId) && move(from(event))}
    >
      {width > 0 && <Picture shown={shown} scale={scale} width={width} line={line} />}
      <div
        class="corpus-line" role="slider" tabindex="0" aria-label={`Threshold of ${shown.rule}`} aria-valuemin={scale.low} aria-valuemax={scale.high} aria-valuenow={threshold}
        aria-valuetext={`${shown.signal} of ${shown.keeps} ${number(threshold)} is kept`} style={{ left: `${100 * line}%` }} onKeyDown={press}
      >
        <span aria-hidden="true" />
      </div>
    </div>
  );
}

/** A step of the axis, and at least the next value that looks different. */
function nudge(scale, threshold, share) {
  for (const times of [1, 2, 4, 8]) {
    const next = scale.round(scale.value(scale.at(threshold) + times * share));
    if (next !== threshold) return Math.min(Math.max(next, scale.low), scale.high);
  }
  return threshold;
}

function Picture({ shown, scale, width, line }) {
  const floor = HEIGHT - FOOT;
  const most = Math.max(1, ...shown.counts);
  // The root makes a bin with one document visible beside one with a thousand.
  const height = (count) => (floor - HEAD) * Math.sqrt(count / most);
  const [left, right] = shown.keeps === "at least" ? ["dropped", "kept"] : ["kept", "dropped"];
  const cut = shown.keeps === "at least" ? [0, line] : [line, 1];
  const told = `${whole(shown.documents)} documents by ${shown.signal}, from ${number(shown.edges[0])} to ${number(shown.edges.at(-1))}; most in one bin: ${whole(most)}`;
  return (
    <svg role="img" aria-label={told} width={width} height={HEIGHT}>
      {shown.counts.map((count, bin) => {
        const [x0, x1] = [scale.at(shown.edges[bin]) * width, scale.at(shown.edges[bin + 1]) * width];
        const [whole_, kept] = [height(count), count ? (height(count) * (shown.kept?.[bin] ?? count)) / count : 0];
        const w = Math.max(1, x1 - x0 - 1);
        return count > 0 && (
          <g key={bin}>
            <rect class="gone" x={x0} y={floor - whole_} width={w} height={Math.max(0, whole_ - kept)} />
            <rect class="stayed" x={x0} y={floor - kept} width={w} height={kept} />
          </g>
        );
      })}
      <rect class="cut" x={cut[0] * width} y="0" width={Math.max(0, (cut[1] - cut[0]) * width)} height={floor} />
      <line class="axis" x1="0" x2={width} y1={floor + 0.5} y2={floor + 0.5} />
      {line > 0.12 && <text class="side" x={line * width - 10} y="13" text-anchor="end">← {left}</text>}
      {line < 0.88 && <text class="side" x={line * width + 10} y="13">{right} →</text>}
      {ticks(scale, shown, Math.max(3, Math.floor(width / 90))).map(({ value, at }) => (
        <text key={value} class="tick" x={at * width} y={HEIGHT - 6} text-anchor={at < 0.04 ? "start" : at > 0.96 ? "end" : "middle"}>{Math.abs(value) >= 1000 ? compact(value) : number(value, 3)}</text>
      ))}
    </svg>
  );
}

function useWidth(ref) {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return width;
}
