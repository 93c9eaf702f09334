// One answer: formatted, plain or token by token, with what is known of how it was made.
import { useState } from "preact/hooks";
import { number, percent, seconds } from "../../ui/format.js";
import { Markdown } from "../../ui/Markdown.jsx";
import { TokenStrip } from "../../ui/TokenStrip.jsx";
import { spoken, visible } from "../../ui/tokens.js";

const FULL_SURPRISE_BITS = 8;

/** `said`: content, tokens, busy, loading, error, stats. `onAlternative(place, token)` continues with another token there. */
export function Answer({ said, view, onAlternative }) {
  const shown = view === "tokens" && !said.tokens ? "plain" : view;
  return (
    <div class="chat-said" aria-busy={said.busy ? "true" : undefined}>
      {said.loading && <p class="muted" role="status">Loading {said.loading.name} …</p>}
      {shown === "tokens" && <HeatMap tokens={said.tokens} onAlternative={said.busy ? null : onAlternative} />}
      {shown === "plain" && <div class="text">{said.content}</div>}
      {shown === "formatted" && <Markdown text={said.content} />}
      {view === "tokens" && !said.tokens && <p class="muted">The tokens of this answer were not kept when the page was loaded again. Try again to see them.</p>}
      {!said.content && !said.busy && !said.error && <p class="muted">The model ended at once and said nothing.</p>}
    </div>
  );
}

export function HeatMap({ tokens, onAlternative }) {
  const [chosen, setChosen] = useState(null);
  const look = (token) => {
    if (token.logprob === undefined) return { class: "chat-forced", label: `${spoken(token)}, chosen` };
    const share = Math.exp(token.logprob);
    const surprise = Math.min(1, -token.logprob / Math.LN2 / FULL_SURPRISE_BITS);
    return { class: share < 0.1 ? "chat-rare" : "", style: { "--surprise": `${Math.round(60 * surprise)}%` }, label: `${spoken(token)}, ${percent(share)}` };
  };
  if (!tokens.length) return null;
  return (
    <div class="chat-heat">
      <TokenStrip tokens={tokens} chosen={chosen} onChoose={setChosen} look={look} label="Tokens by probability" />
      {chosen !== null && tokens[chosen] ? (
        <TokenDetails token={tokens[chosen]} place={chosen} onAlternative={onAlternative} />
      ) : (
        <p class="chat-legend muted">
          {[0.9, 0.5, 0.1, 0.01].map((share) => (
            <span key={share} class="chat-swatch" style={{ "--surprise": `${Math.round((60 * Math.min(8, -Math.log2(share))) / 8)}%` }}>{percent(share, 0)}</span>
          ))}{" "}
          Choose a token for its probability and what else might have stood there.
        </p>
      )}
    </div>
  );
}

function TokenDetails({ token, place, onAlternative }) {
  return (
    <div class="chat-token card" aria-live="polite">
      <p>
        Token {place + 1}: <code>{visible(token)}</code> <span class="muted">id {token.id}</span>{" "}
        {token.logprob === undefined ? "was chosen by you" : <><strong>{percent(Math.exp(token.logprob), 2)}</strong> <span class="muted">log-probability {number(token.logprob)}</span></>}
      </p>
      {token.top && (
        <table>
          <caption class="hidden">What else might have stood there</caption>
          <thead><tr><th scope="col">Likeliest here</th><th scope="col" class="right">Probability</th><th scope="col"><span class="hidden">Continue</span></th></tr></thead>
          <tbody>
            {token.top.map((other) => (
              <tr key={other.id}>
                <td><code>{visible(other)}</code></td>
                <td class="right">{percent(Math.exp(other.logprob), 2)}</td>
                <td>
                  {other.id === token.id ? <span class="muted">said</span> : onAlternative && !other.special && (
                    <button type="button" class="quiet" onClick={() => onAlternative(place, other)} aria-label={`Continue with ${spoken(other)}`}>Continue</button>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </div>
  );
}

const FINISHES = { length: "cut at the limit", stopped: "stopped", stop: "" };

/** Tokens, speed, seed and how it ended, in one line. */
export function Facts({ said, onSeed }) {
  const { stats, finish, seed } = said;
  const live = said.busy && said.tokens?.length > 1 && said.began ? (1000 * said.tokens.length) / (performance.now() - said.began) : null;
  const parts = [];
  if (stats) {
    parts.push(`${stats.answer_tokens} tokens after ${stats.prompt_tokens}`);
    if (stats.answer_tokens > 4 && stats.tokens_per_second) parts.push(`${number(stats.tokens_per_second, 3)} tokens/s`);
    parts.push(`first after ${seconds(stats.first_token_seconds)}`);
    if (stats.answer_tokens) parts.push(`${number(-stats.logprob / stats.answer_tokens / Math.LN2, 3)} bits a token`);
  } else if (live) parts.push(`${said.tokens.length} tokens`, `${number(live, 3)} tokens/s`);
  if (FINISHES[finish]) parts.push(FINISHES[finish]);
  return (
    <span class="chat-facts muted">
      {parts.join(" · ")}
      {seed !== undefined && !said.busy && (
        <> · <button type="button" class="quiet" onClick={() => onSeed(seed)} title="Use this seed from now on" aria-label={`Use seed ${seed} from now on`}>seed {seed}</button></>
      )}
      {said.forgotten > 0 && <> · the first {said.forgotten} messages no longer fit and were not read</>}
    </span>
  );
}
