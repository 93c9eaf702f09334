// Chats are kept in this browser (localStorage) and nowhere else; the oldest leave when there are many.
const KEY = "bloomery.chats";
const CURRENT = "bloomery.chat";
const MAX_CHATS = 30;

export function readChats() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter(isChat) : [];
  } catch {
    return []; // a private window, or something else has written there
  }
}

const isChat = (chat) => typeof chat?.id === "string" && Array.isArray(chat.columns) && chat.columns.length > 0 && chat.columns.every((one) => one?.tree?.nodes && one.tree.chosen);

/** Writes one chat and leaves the others as another tab may have written them meanwhile. False if the browser refused. */
export function saveChat(chat) {
  const others = readChats().filter((other) => other.id !== chat.id);
  for (let kept = [chat, ...others].slice(0, MAX_CHATS); kept.length; kept = kept.slice(0, -1)) {
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
      localStorage.setItem(CURRENT, chat.id);
      return true;
    } catch {
      if (kept.length === 1) return false; // full: the oldest chat gives way
    }
  }
  return false;
}

export function removeChat(id) {
  try {
    localStorage.setItem(KEY, JSON.stringify(readChats().filter((chat) => chat.id !== id)));
  } catch {
    // nothing was kept
  }
}

export function currentChat() {
  try {
    return readChats().find((chat) => chat.id === localStorage.getItem(CURRENT)) ?? null;
  } catch {
    return null;
  }
}

export function markCurrent(id) {
  try {
    localStorage.setItem(CURRENT, id);
  } catch {
    // as above
  }
}
