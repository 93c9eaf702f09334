// K answers in an order: by dragging, by the arrow keys on an answer's handle, or by its buttons. Equal ranks are allowed.
import { useRef, useState } from "preact/hooks";

const letter = (place) => String.fromCharCode(65 + place);

export function Ranking({ answers, show, busy, onVote }) {
  const [order, setOrder] = useState(() => answers.map((_, place) => place));
  const [tied, setTied] = useState(() => new Set());
  const [dragged, setDragged] = useState(null);
  const [said, setSaid] = useState("");
  const list = useRef(null);

  const ranks = rankOf(order, tied);
  const move = (answer, to) => {
    const from = order.indexOf(answer);
    const target = Math.max(0, Math.min(order.length - 1, to));
    if (target === from) return;
    const changed = order.filter((other) => other !== answer);
    changed.splice(target, 0, answer);
    setOrder(changed);
    // Equal to whom it has now above it is something new to be said.
    setTied(new Set([...tied].filter((other) => other !== answer && other !== changed[0])));
    setSaid(`Answer ${letter(answer)} is now at place ${target + 1} of ${order.length}`);
  };
  const tie = (answer) => {
    if (order[0] === answer) return;
    const changed = new Set(tied);
    if (!changed.delete(answer)) changed.add(answer);
    setTied(changed);
    setSaid(`Answer ${letter(answer)} ${changed.has(answer) ? "is equal to" : "is worse than"} the one above`);
  };
  const send = () => onVote("ranking", answers.map((_, answer) => ranks.get(answer)));

  const onKey = (answer) => (event) => {
    const act = {
      ArrowUp: () => move(answer, order.indexOf(answer) - 1),
      ArrowDown: () => move(answer, order.indexOf(answer) + 1),
      "=": () => tie(answer),
      Enter: send,
    }[event.key];
    if (!act || event.repeat) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  const onDown = (answer) => (event) => {
    if (event.button !== 0) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    setDragged(answer);
  };
  const onMove = (answer) => (event) => {
    if (dragged !== answer) return;
    const others = [...list.current.children].filter((child) => Number(child.dataset.answer) !== answer);
    const above = others.filter((child) => {
      const box = child.getBoundingClientRect();
      return event.clientY > box.top + box.height / 2;
    });
    move(answer, above.length);
  };
  return (
    <>
      <p class="muted">The best answer on top. Drag by the handle, or focus it and use the arrow keys.</p>
      <ol class="arena-ranking" ref={list}>
        {order.map((answer, place) => (
          <li key={answer} data-answer={answer} class={`card ${dragged === answer ? "dragged" : ""}`}>
            <div class="arena-rank-head">
              <button
                type="button" class="handle" aria-label={`Answer ${letter(answer)}, rank ${ranks.get(answer)}: arrow keys move it`}
                onKeyDown={onKey(answer)} onPointerDown={onDown(answer)} onPointerMove={onMove(answer)}
                onPointerUp={() => setDragged(null)} onPointerCancel={() => setDragged(null)}
              >
                <span aria-hidden="true">⠿</span> {letter(answer)}
              </button>
              <span class="tag">rank {ranks.get(answer)}</span>
              <button type="button" class="quiet" aria-label={`Answer ${letter(answer)} up`} disabled={place === 0} onClick={() => move(answer, place - 1)}>▲</button>
              <button type="button" class="quiet" aria-label={`Answer ${letter(answer)} down`} disabled={place === order.length - 1} onClick={() => move(answer, place + 1)}>▼</button>
              <button type="button" class="quiet" aria-pressed={tied.has(answer)} disabled={place === 0} onClick={() => tie(answer)}>= equal to the one above</button>
            </div>
            {answers[answer] ? show(answers[answer]) : <p class="muted">(an empty answer)</p>}
          </li>
        ))}
      </ol>
      <div class="arena-choices" role="group" aria-label="Your vote">
        <button type="button" class="primary" aria-disabled={busy} onClick={(event) => event.detail <= 1 && send()}>Send the ranking <kbd>Enter</kbd></button>
        <button type="button" class="quiet" aria-disabled={busy} onClick={(event) => event.detail <= 1 && onVote("skip")}>Skip <kbd>S</kbd></button>
      </div>
      <p class="hidden" aria-live="polite">{said}</p>
    </>
  );
}

/** answer -> rank, 1 is best; one that is tied has the rank of the one above. */
function rankOf(order, tied) {
  const ranks = new Map();
  let rank = 1;
  order.forEach((answer, place) => {
    if (place > 0 && !tied.has(answer)) rank += 1;
    ranks.set(answer, rank);
  });
  return ranks;
}
