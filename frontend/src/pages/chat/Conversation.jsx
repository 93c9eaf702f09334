// Conversations with one to four models: one composer, a column a model, branches in each.
import { useEffect, useRef, useState } from "preact/hooks";
import { setQuery } from "../../router.js";
import { Problem } from "../../ui/parts.jsx";
import { writeSetting, samplingOf } from "./settings.js";
import { Answer, Facts } from "./Answer.jsx";
import { cleanMessages, newSeed, streamAnswer } from "./asking.js";
import { RawPrompt } from "./RawPrompt.jsx";
import { currentChat, markCurrent, readChats, removeChat, saveChat } from "./saved.js";
import { addNode, branch, changeNode, emptyTree, pathTo, siblings, toMessages, turn, withoutTokens } from "./tree.js";

const newChat = () => ({ id: crypto.randomUUID?.() ?? String(Math.random()), title: "New chat", system: "", columns: [{ tree: emptyTree() }] });

/** The state of a chat, kept in the browser; `update` changes it at once, also for who reads `ref` right after. */
function useSavedChat(models) {
  const [chat, setChat] = useState(() => currentChat() ?? newChat());
  const ref = useRef(chat);
  const timer = useRef(null);
  const ids = useRef([]);
  ids.current = models.map((model) => model.id);
  const [lost, setLost] = useState(false);
  const write = () => {
    timer.current = null;
    const now = ref.current;
    if (now.columns.some(({ tree }) => tree.next > 1)) setLost(!saveChat({ ...now, models: ids.current, columns: now.columns.map(({ tree }) => ({ tree: withoutTokens(tree) })) }));
  };
  const update = (change) => {
    ref.current = change(ref.current);
    setChat(ref.current);
    timer.current ??= setTimeout(write, 300);
  };
  const open = (next) => {
    if (timer.current) { clearTimeout(timer.current); write(); }
    ref.current = next;
    setChat(next);
    markCurrent(next.id);
  };
  useEffect(() => {
    const leave = () => timer.current && (clearTimeout(timer.current), write());
    addEventListener("pagehide", leave);
    return () => { removeEventListener("pagehide", leave); leave(); };
  }, []);
  return { chat, ref, update, open, lost };
}

export function Conversation({ columns: models, settings, limits, onAnswered, dropColumn }) {
  const { chat, ref, update, open, lost } = useSavedChat(models);
  const running = useRef(new Map());
  const [draft, setDraft] = useState("");
  const [raw, setRaw] = useState(null);
  const [told, setTold] = useState("");
  // A model more: it begins with the conversation of the first column; one less: its column goes.
  const columns = models.map((_, place) => chat.columns[place] ?? { tree: chat.columns[0].tree });
  const busy = columns.some(({ tree }) => Object.values(tree.nodes).some((node) => node.busy));

  const changeTree = (place, change) => update((old) => {
    const next = models.map((_, i) => old.columns[i] ?? { tree: old.columns[0].tree });
    if (!next[place]) return old;
    next[place] = { tree: change(next[place].tree) };
    return { ...old, columns: next };
  });

  const answer = async (place, parent, seed, { forced = [], model = models[place] } = {}) => {
    const stop = new AbortController();
    let id;
    changeTree(place, (tree) => {
      const [next, made] = addNode(tree, parent, { role: "assistant", model: model.name, busy: true, tokens: [] });
      id = made;
      return next;
    });
    const key = `${place}/${id}`;
    running.current.set(key, stop);
    const body = {
      model: model.id, seed, top: settings.top, forced, sampling: samplingOf(settings),
      messages: cleanMessages(toMessages(pathTo(ref.current.columns[place].tree, parent), ref.current.system)),
    };
    const chatId = ref.current.id;
    const said = await streamAnswer(body, (fields) => ref.current.id === chatId && changeTree(place, (tree) => changeNode(tree, id, fields)), stop.signal);
    running.current.delete(key);
    setTold(said.error ? `${model.name}: ${said.error}` : `${model.name} has answered.`);
  };

  const stopAll = () => running.current.forEach((stop) => stop.abort());
  useEffect(() => stopAll, []);
  dropColumn.current = (place) => {
    stopAll();
    update((old) => ({ ...old, columns: models.map((_, i) => old.columns[i] ?? { tree: old.columns[0].tree }).filter((_, i) => i !== place) }));
  };

  const pickSeed = () => (settings.seed === "" ? newSeed() : Number(settings.seed));

  const say = (text, parents, turnId = crypto.randomUUID?.() ?? String(Math.random())) => {
    const seed = pickSeed();
    if (ref.current.title === "New chat") update((old) => ({ ...old, title: text.trim().slice(0, 60) || "New chat" }));
    const waits = parents.map(([place, parent]) => {
      let id;
      changeTree(place, (tree) => {
        const [next, made] = addNode(tree, parent, { role: "user", content: text, turn: turnId });
        id = made;
        return next;
      });
      return answer(place, id, seed);
    });
    Promise.all(waits).then(onAnswered);
  };

  const send = () => {
    if (!draft.trim() || busy) return;
    say(draft, columns.map(({ tree }, place) => [place, branch(tree).at(-1)?.id]));
    setDraft("");
  };

  // An edited message makes a branch in every column that was sent the same one.
  const resend = (place, node, text) => {
    const same = columns.flatMap(({ tree }, i) => branch(tree).filter((one) => (i === place ? one.id === node.id : node.turn && one.turn === node.turn)).map((one) => [i, one.parent || undefined]));
    say(text, same);
  };

  const alternative = (place, node, at, token) => {
    const kept = node.tokens.slice(0, at).map((one) => one.id);
    answer(place, node.parent, node.seed ?? pickSeed(), { forced: token ? [...kept, token.id] : kept }).then(onAnswered);
  };

  const leaveTo = (next) => {
    stopAll();
    open(next);
    if (next.models?.length) setQuery({ model: next.models }); // it goes on with those who were asked
  };

  return (
    <section aria-label="Conversation" class="chat-room">
      <div class="row chat-tools">
        <Chats chat={chat} onOpen={leaveTo} />
        <button type="button" onClick={() => exportMessages(chat, columns, models)} disabled={!branch(columns[0].tree).length}>Export messages</button>
      </div>
      {lost && <Problem error={new Error("This browser would not keep the chat: it will be gone when the page is closed. Export it.")} />}
      <SystemPrompt value={chat.system} onChange={(system) => update((old) => ({ ...old, system }))} />
      <div class={`chat-columns chat-columns-${columns.length}`} tabindex={columns.length > 1 ? 0 : undefined} role={columns.length > 1 ? "group" : undefined} aria-label={columns.length > 1 ? "Models side by side" : undefined}>
        {columns.map(({ tree }, place) => (
          <Column
            key={place} model={models[place]} tree={tree} settings={settings} many={columns.length > 1}
            onTurn={(id, step) => changeTree(place, (old) => turn(old, id, step))}
            onResend={(node, text) => resend(place, node, text)}
            onAgain={(node) => answer(place, node.parent, pickSeed()).then(onAnswered)}
            onAlternative={(node, at, token) => alternative(place, node, at, token)}
            onRaw={() => setRaw({ name: models[place].name, ask: rawAsk(chat, tree, models[place], draft, settings) })}
          />
        ))}
      </div>
      <form class="chat-composer" onSubmit={(event) => { event.preventDefault(); send(); }}>
        <label class="hidden" for="chat-draft">Message</label>
        <textarea
          id="chat-draft" rows={Math.min(8, Math.max(2, draft.split("\n").length))} maxLength={limits.characters} value={draft}
          placeholder={models.length > 1 ? "A message to all of them" : "A message"}
          onInput={(event) => setDraft(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
            if (event.key === "Escape" && busy) stopAll();
          }}
        />
        {busy ? <button type="button" class="danger" onClick={stopAll}>Stop</button> : <button type="submit" class="primary" disabled={!draft.trim()}>Send</button>}
      </form>
      <p class="hidden" role="status">{told}</p>
      <RawPrompt ask={raw?.ask ?? null} name={raw?.name ?? ""} onClose={() => setRaw(null)} />
    </section>
  );
}

function Column({ model, tree, settings, many, onTurn, onResend, onAgain, onAlternative, onRaw }) {
  const nodes = branch(tree);
  const last = useRef(null);
  const length = nodes.at(-1)?.content.length ?? 0;
  useEffect(() => {
    // Follows a growing answer only while its end is in sight.
    const box = last.current?.getBoundingClientRect();
    if (box && box.bottom > innerHeight - 120 && box.bottom < innerHeight + 200) scrollBy(0, box.bottom - innerHeight + 140);
  }, [length]);
  return (
    <article class="chat-column" aria-label={model.name}>
      <header>
        <h2>{many ? model.name : <span class="hidden">{model.name}</span>}</h2>
        <button type="button" class="quiet" onClick={onRaw}>What the model sees</button>
      </header>
      {!model.missing && !model.can_converse && <p class="chat-note">This model has no chat template: it continues text. Choose Completion above.</p>}
      {model.can_converse && !model.is_chat && <p class="chat-note">This model was not trained on conversations; Completion suits it better.</p>}
      <ol class="chat-messages">
        {nodes.map((node) => (
          <li key={node.id} class={`chat-message chat-${node.role}`}>
            {node.role === "user" ? (
              <UserMessage node={node} tree={tree} onTurn={onTurn} onResend={onResend} />
            ) : (
              <>
                <h3 class="hidden">Answer{node.model ? ` of ${node.model}` : ""}</h3>
                <Problem error={node.error ? new Error(node.error) : null} />
                <Answer said={node} view={settings.view} onAlternative={(at, token) => onAlternative(node, at, token)} />
                <div class="chat-under">
                  <Branches node={node} tree={tree} onTurn={onTurn} what="Answer" />
                  {!node.busy && <button type="button" class="quiet" onClick={() => onAgain(node)}>Try again</button>}
                  {!node.busy && ["length", "stopped"].includes(node.finish) && node.tokens?.length > 0 && (
                    <button type="button" class="quiet" onClick={() => onAlternative(node, node.tokens.length, null)}>Go on</button>
                  )}
                  {node.model && node.model !== model.name && <span class="muted">by {node.model}</span>}
                  <Facts said={node} onSeed={(seed) => writeSetting("seed", seed)} />
                </div>
              </>
            )}
          </li>
        ))}
      </ol>
      <div ref={last} />
    </article>
  );
}

function UserMessage({ node, tree, onTurn, onResend }) {
  const [text, setText] = useState(null);
  if (text !== null) {
    const done = () => { setText(null); if (text.trim()) onResend(node, text); };
    return (
      <form class="stack" onSubmit={(event) => { event.preventDefault(); done(); }}>
        <textarea
          aria-label="Edit the message" rows={3} value={text} ref={(field) => field && document.activeElement !== field && !field.dataset.seen && (field.dataset.seen = "1", field.focus())}
          onInput={(event) => setText(event.currentTarget.value)} onKeyDown={(event) => event.key === "Escape" && setText(null)}
        />
        <div class="row"><button type="submit" class="primary">Send as a branch</button><button type="button" onClick={() => setText(null)}>Cancel</button></div>
      </form>
    );
  }
  return (
    <>
      <h3 class="hidden">You</h3>
      <div class="text">{node.content}</div>
      <div class="chat-under">
        <Branches node={node} tree={tree} onTurn={onTurn} what="Message" />
        <button type="button" class="quiet" onClick={() => setText(node.content)}>Edit</button>
      </div>
    </>
  );
}

function Branches({ node, tree, onTurn, what }) {
  const all = siblings(tree, node.id);
  const at = all.findIndex((one) => one.id === node.id);
  if (all.length < 2) return null;
  return (
    <span class="chat-branches" role="group" aria-label={`${what} ${at + 1} of ${all.length}`}>
      <button type="button" class="quiet" disabled={at === 0} onClick={() => onTurn(node.id, -1)} aria-label="Earlier branch">‹</button>
      <span>{at + 1}/{all.length}</span>
      <button type="button" class="quiet" disabled={at === all.length - 1} onClick={() => onTurn(node.id, 1)} aria-label="Later branch">›</button>
    </span>
  );
}

function Chats({ chat, onOpen }) {
  const others = readChats();
  const listed = others.some((one) => one.id === chat.id) ? others : [chat, ...others];
  const remove = () => {
    removeChat(chat.id);
    onOpen(newChat());
  };
  return (
    <>
      <label class="hidden" for="chat-list">Chats in this browser</label>
      <select id="chat-list" value={chat.id} onChange={(event) => onOpen(listed.find((one) => one.id === event.currentTarget.value))}>
        {listed.map((one) => <option key={one.id} value={one.id} selected={one.id === chat.id}>{one.title}</option>)}
      </select>
      <button type="button" onClick={() => onOpen(newChat())}>New chat</button>
      <button type="button" class="quiet" onClick={remove} disabled={!others.some((one) => one.id === chat.id)}>Delete</button>
    </>
  );
}

function SystemPrompt({ value, onChange }) {
  return (
    <details class="chat-system" open={value !== ""}>
      <summary>System message{value ? "" : " (none)"}</summary>
      <label class="hidden" for="chat-system">System message</label>
      <textarea id="chat-system" rows={2} maxLength={20000} value={value} onInput={(event) => onChange(event.currentTarget.value)} />
    </details>
  );
}

function rawAsk(chat, tree, model, draft, settings) {
  const nodes = branch(tree);
  const asked = draft.trim() ? [...nodes, { role: "user", content: draft }] : nodes.slice(0, nodes.findLastIndex((node) => node.role === "user") + 1);
  const messages = cleanMessages(toMessages(asked.length ? asked : [{ role: "user", content: "" }], chat.system));
  return { model: model.id, messages, sampling: samplingOf(settings) };
}

/** The branch in view of each column as a line of JSON with `messages`, as training reads them. */
function exportMessages(chat, columns, models) {
  const lines = columns.map(({ tree }, place) => JSON.stringify({ messages: toMessages(branch(tree), chat.system), model: models[place].name }));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n"), "\n"], { type: "application/jsonl" }));
  link.download = "messages.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
