// One rollout, with everything that was kept of it.

import { get } from "./api.js";
import { gallery } from "./boxes.js";
import { h, put } from "./dom.js";
import { exact, number } from "./format.js";
import { listState } from "./list.js";
import { address } from "./main.js";
import { plain } from "./plain.js";
import { components, conversation, facts, key, long } from "./rollout.js";

/** Of `PHASE:STEP:ROW`. */
export function place(at) {
  const [row, step, ...phase] = (at || "").split(":").reverse();
  return { phase: phase.reverse().join(":"), step, row };
}

/** Listens for the keys of a page until it is left; Esc leads to `back`. */
export function keys(back, others = {}) {
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox], [type=radio]), select, textarea, dialog") || document.querySelector("dialog[open]")) return;
    const to = event.key === "Escape" ? back : others[event.key];
    if (to) location.hash = to;
  };
  document.addEventListener("keydown", pressed);
  return { close: () => document.removeEventListener("keydown", pressed) };
}

/** Where a list goes on after a look at one of its rollouts. */
export function backTo(state) {
  return address("rollouts", { ...listState(state), mark: state.at });
}

export async function showOne(root, state) {
  const { run } = state;
  const asked = { run, ...place(state.at) };
  const one = await get("/api/rollout", asked);
  const list = listState(state);
  const to = (show, more = {}) => address("rollouts", { ...list, show, at: state.at, ...more });
  const group = to("group");
  const sample = to("sample", { id: one.sample, of: one.source });
  const reload = () => get("/api/rollout", { ...asked, whole: "true" });
  const pictures = one.pictures.length ? gallery(run, one.pictures, one.marks) : h("p", { class: "dim" }, "No pictures.");
  put(root, h("h1", {}, plain(`${one.sample} #${one.rank}`)),
    h("p", { class: "row" }, h("span", {}, plain(one.source), ` · ${one.phase} · step ${number(one.step)}`),
      h("a", { href: backTo(state), id: "back" }, "Back to the list (Esc)"),
      h("a", { href: group }, `Its group of ${one.siblings.length} (g)`),
      h("a", { href: sample }, "This sample through the steps (s)")),
    h("div", { class: "one-columns" },
      h("section", { "aria-label": "Pictures" }, h("h2", {}, "Pictures"), pictures),
      h("div", {}, components(one), h("section", { "aria-label": "Truth" }, h("h2", {}, "Truth"), long(one.truth, async () => (await reload()).truth)), facts(one))),
    one.siblings.length > 1 && siblings(one, list),
    conversation(run, one, reload));
  root.querySelector("#back").focus({ preventScroll: true });
  return keys(backTo(state), { g: group, s: sample });
}

/** The others of its group, to be walked through with j and k. */
function siblings(one, list) {
  return h("section", { "aria-label": "Group" }, h("h2", {}, "Group"), h("p", { class: "row" }, one.siblings.map((other) =>
    h("a", { href: address("rollouts", { ...list, show: "one", at: key(other) }), "data-item": true, "aria-current": other.row === one.row ? "true" : null, class: "tag" },
      `#${other.rank}: ${exact(other.reward)}`))));
}
