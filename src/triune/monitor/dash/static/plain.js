// Text of models and of data, made safe to look at: characters that nothing shows, or that turn the order of others,
// are shown by name, and each piece of text keeps its direction to itself.

import { h } from "./dom.js";

// Control characters but for tab and line feed; what joins, separates or turns text; noncharacters and private tags.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\udb40[\udc00-\udfff]/gu;

/** The text in a `bdi`. */
export function plain(text, attributes = {}) {
  return h("bdi", attributes, pieces(text));
}

/** The text as nodes. */
export function pieces(text) {
  const found = [];
  let from = 0;
  for (const match of String(text).matchAll(UNSEEN)) {
    if (match.index > from) found.push(text.slice(from, match.index));
    found.push(h("span", { class: "unseen" }, name(match[0])));
    from = match.index + match[0].length;
  }
  if (from < text.length) found.push(from ? text.slice(from) : text);
  return found;
}

function name(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code); // the pictures of control characters
  return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}
