// Tokens as people read them: blanks, line ends and control characters visible, parts of characters as bytes.

// What has no shape of its own, or would change how its neighbours are shown.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufe00-\ufe0f\ufeff\ufff0-\ufffb]/gu;

/** The text of a token with blanks as dots and hidden characters by their numbers. */
export function visible(token) {
  if (token.hex !== undefined) return `‹${token.hex}›`;
  return token.text
    .replace(/ /g, "·")
    .replace(/\t/g, "→")
    .replace(HIDDEN, (character) => (character === "\r" ? "␍" : `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`))
    .replace(/\n/g, "↵");
}

/** The bytes of a token in hexadecimal. */
export function hexOf(token) {
  if (token.hex !== undefined) return token.hex;
  return Array.from(new TextEncoder().encode(token.text), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

/** The same in words for a screen reader, which says nothing for a dot. */
export function spoken(token) {
  if (token.special) return `special token ${token.text}`;
  if (token.hex !== undefined) return `bytes ${token.hex}`;
  const named = token.text.replace(/^ +/, (blanks) => (blanks.length === 1 ? "blank " : `${blanks.length} blanks `)).replace(/\n/g, " line end ");
  return named.trim() || "blanks";
}

/** Text without lone surrogates, which no server takes; what was one becomes U+FFFD. */
export const wellFormed = (text) => (text.toWellFormed ? text.toWellFormed() : text.replace(/\p{Surrogate}/gu, "\ufffd"));
