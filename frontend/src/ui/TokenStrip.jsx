// A row of tokens, one of which can be chosen: by mouse, or by arrow keys once the tab key has reached the row.
import { Fragment } from "preact";
import { useRef } from "preact/hooks";
import { spoken, visible } from "./tokens.js";

/** `look(token, place)`: {class, style, label, text} of a token, all optional. */
export function TokenStrip({ tokens, chosen, onChoose, look = () => ({}), label }) {
  const row = useRef(null);
  const current = chosen !== null && chosen < tokens.length ? chosen : 0;
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = Math.min(tokens.length - 1, Math.max(0, current + step));
    onChoose(next);
    row.current.querySelectorAll("button")[next]?.focus();
  };
  return (
    <div class="tokens" role="toolbar" aria-label={label} ref={row} onKeyDown={move}>
      {tokens.map((token, place) => {
        const { class: name = "", style, label: said = spoken(token), text = visible(token) } = look(token, place);
        return (
          <Fragment key={place}>
            <button
              type="button" class={`token ${token.special ? "special" : ""} ${name}`} style={style} tabindex={place === current ? 0 : -1}
              aria-pressed={place === chosen} aria-label={said} title={said} onClick={() => onChoose(place)}
            >{text}</button>
            {text.endsWith("↵") && <br />}
          </Fragment>
        );
      })}
    </div>
  );
}
