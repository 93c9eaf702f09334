// How pages talk to the server: JSON both ways, streams of server-sent events, errors with the server's own words.

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** GET. `params`: query parameters; null and undefined are left out. */
export async function getJson(path, params = {}, { signal } = {}) {
  return readAnswer(await ask(withParams(path, params), { signal }));
}

/** POST, PUT or DELETE with a JSON body. */
export async function sendJson(method, path, body = {}, { signal } = {}) {
  return readAnswer(await ask(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal }));
}

/** POST whose answer is a stream: calls onEvent({event, data, id}) for each. Abort `signal` to stop. Rejects with ApiError on a "problem". */
export async function streamEvents(path, body, { onEvent, signal }) {
  const answer = await ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal });
  if (!answer.ok) await readAnswer(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parseEvent(block);
      if (!event) continue;
      if (event.event === "problem") throw new ApiError(200, event.data.message, event.data.code);
      onEvent(event);
    }
  }
}

/** An EventSource: `handlers` by event name get the parsed data. Returns a function that closes it. It reconnects by itself. */
export function listenTo(path, handlers, { params = {}, onOpen, onLost } = {}) {
  const source = new EventSource(withParams(path, params));
  for (const [name, handle] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => handle(JSON.parse(event.data), event.lastEventId));
  }
  source.addEventListener("open", () => onOpen?.());
  source.addEventListener("error", () => onLost?.(source.readyState === EventSource.CLOSED));
  return () => source.close();
}

async function ask(path, options) {
  try {
    return await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer. Is `bloomery web` still running?", "unreachable");
  }
}

async function readAnswer(answer) {
  const text = await answer.text();
  let value;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError(answer.status, `The server's answer could not be read (status ${answer.status}).`, "unreadable");
  }
  if (!answer.ok) throw new ApiError(answer.status, value?.error?.message ?? `The server refused (status ${answer.status}).`, value?.error?.code);
  return value;
}

function withParams(path, params) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined) query.append(name, item);
    }
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

function parseEvent(block) {
  const event = { event: "message", data: null };
  const data = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
    if (name === "data") data.push(value);
    else event[name] = value;
  }
  if (!data.length) return null;
  event.data = JSON.parse(data.join("\n"));
  return event;
}
