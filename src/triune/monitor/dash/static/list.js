// The list of rollouts and its filters.

import { following, get, picture } from "./api.js";
import { field, h, put, table } from "./dom.js";
import { exact, number } from "./format.js";
import { address, failure, remember } from "./main.js";
import { pieces, plain } from "./plain.js";
import { fate, key, verdictWord } from "./rollout.js";

/** The filters, as they are called in the address and by the server. */
const FILTERS = ["phase", "step", "source", "task", "sample", "group", "status", "ending", "correct", "reward_min", "reward_max",
  "component", "value_min", "value_max", "length_min", "length_max", "text"];
const PLACE = ["order", "after", "skip"];
const ORDERS = { step: "step, first on top", "-step": "step, last on top", reward: "reward, lowest on top", "-reward": "reward, highest on top",
  accuracy: "accuracy, lowest on top", "-accuracy": "accuracy, highest on top", advantage: "advantage, lowest on top", "-advantage": "advantage, highest on top",
  length: "length, shortest on top", "-length": "length, longest on top" };

/** What of an address says which list is shown: handed on, so that one can come back to it. */
export function listState(state) {
  return Object.fromEntries(["run", ...FILTERS, ...PLACE].filter((name) => state[name]).map((name) => [name, state[name]]));
}

export async function showList(root, state) {
  const { run } = state;
  let now = listState(state);
  const choices = await get("/api/rollouts/choices", { run });
  if (!now.phase && (now.sample || now.group)) now.phase = "all"; // it may be of any
  if (!now.phase) now.phase = "train" in choices.phases || !Object.keys(choices.phases).length ? "train" : Object.keys(choices.phases)[0];
  const holder = h("div", { "aria-live": "off" });
  const count = h("p", { role: "status" });
  let begun = true;

  const set = (name, value) => {
    now = { ...now, [name]: value, after: "", skip: "" };
    remember({ ...now, mark: "" });
    begun = false;
    return read().catch((error) => put(holder, failure(error)));
  };
  const select = (label, name, values, title = (value) => value || "any") => field(label, h("select", { name, onchange: (event) => set(name, event.target.value) },
    [...new Set([...values, now[name] ?? values[0]])].map((value) => h("option", { value, selected: value === (now[name] ?? values[0]) }, title(value)))));
  const input = (name, type, label) => h("input", { name, type, value: now[name] || "", step: "any", "aria-label": label, size: 9, onchange: (event) => set(name, event.target.value.trim()) });
  const range = (label, name) => h("div", { class: "range", role: "group", "aria-label": label }, label,
    h("span", {}, input(`${name}_min`, "number", `${label} from`), "–", input(`${name}_max`, "number", `${label} to`)));

  put(root, h("h1", {}, "Rollouts"),
    h("p", {}, h("a", { href: address("rollouts", { run, show: "pairs" }) }, "Before and after: the same samples in two evaluations")),
    h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
      select("phase", "phase", [...Object.keys(choices.phases), "all"]),
      field("steps", input("step", "text", "steps: 12, 10-20, 10- or -20")),
      select("source", "source", ["", ...choices.sources]),
      select("correct", "correct", ["", "yes", "no"]),
      select("status", "status", ["", ...choices.statuses]),
      range("reward", "reward"),
      select("component", "component", ["", ...choices.components]),
      range("its value", "value"),
      range("tokens", "length"),
      select("ending", "ending", ["", ...choices.endings]),
      field("text in prompt or answer", input("text", "search", "text in prompt or answer")),
      ["sample", "group", "task"].filter((name) => now[name]).map((name) => field(name, input(name, "text", name))),
      select("order", "order", ["-step", ...choices.orders.filter((order) => order !== "-step")], (order) => ORDERS[order] || order),
      h("a", { href: address("rollouts", { run }) }, "Reset")),
    count, holder);

  async function read() {
    if (!/^\s*\d*\s*[-–]?\s*\d*\s*$/.test(now.step || "")) throw new Error(`“${now.step}” is not a step or a range of steps: write 12, 10-20, 10- or -20`);
    const asked = { ...now, run, skip: null, phase: now.phase === "all" ? null : now.phase };
    const found = await get("/api/rollouts", { ...asked, ...(now.phase === "all" ? { phase: [""] } : {}) });
    draw(found);
  }

  function draw(found) {
    const skip = Number(now.skip || 0);
    const focused = holder.contains(document.activeElement) ? document.activeElement.dataset.key : begun ? state.mark : null;
    const shown = found.rows.length ? `${number(skip + 1)} to ${number(skip + found.rows.length)} of ` : "";
    const searched = now.text && (found.next || found.scanned < found.total)
      ? ` Looked at ${number(found.scanned)} of the ${number(found.total)} that the other filters leave${found.next ? "; more on the next page" : ""}.` : "";
    put(count, now.text ? `${number(found.rows.length)} found here.${searched}` : `${shown}${number(found.total)} rollouts`);
    const to = (more) => address("rollouts", { ...now, ...more });
    put(holder,
      found.problems.map((problem) => h("p", { class: "note bad" }, plain(problem), ". The other files are shown.")),
      found.rows.length ? h("div", { class: "scroll" }, h("div", { class: "rollouts-list" }, table(columns(now, to), found.rows, { caption: "Rollouts", row: (one) => ({ "data-key": key(one) }) })))
        : nothing(found, to),
      h("p", { class: "row" }, now.after && h("a", { href: to({ after: "", skip: "" }) }, "First page"),
        found.next && h("a", { href: to({ after: found.next, skip: skip + found.rows.length }), rel: "next" }, found.rows.length ? "Next page" : "Look on")));
    if (focused) holder.querySelector(`a[data-key="${CSS.escape(focused)}"]`)?.focus();
    begun = false;
  }

  function columns(filters, to) {
    const parts = (one) => (filters.component ? [[filters.component, one.components[filters.component]]] : Object.entries(one.components));
    return [
      { title: "", cell: (one) => (one.picture ? h("img", { class: "thumb", src: picture(run, one.picture), alt: "", loading: "lazy" }) : "") },
      { title: "rollout", cell: (one) => h("a", { href: to({ show: "one", at: key(one) }), "data-item": true, "data-key": key(one) }, plain(`${one.sample} #${one.rank}`)) },
      { title: "step", number: true, cell: (one) => [filters.phase === "all" && `${one.phase} `, number(one.step)] },
      { title: "source", cell: (one) => plain(one.source) },
      { title: "reward", number: true, cell: (one) => exact(one.reward) },
      { title: "verdict", cell: (one) => [verdictWord(one), " ", one.answer ? fate({ ...one, in_baseline: one.in_loss }) : one.component !== "policy" && h("span", { class: "tag" }, one.component)] },
      { title: filters.component || "components", cell: (one) => h("span", { class: "dim" }, parts(one).map(([name, value]) => `${filters.component ? "" : `${name} `}${exact(value)}`).join(", ")) },
      { title: "advantage", number: true, cell: (one) => exact(one.advantage) },
      { title: "tokens", number: true, cell: (one) => [number(one.length), one.ending !== "answered" && h("div", { class: "warn" }, one.ending)] },
      { title: "answer", cell: (one) => h("div", { class: "answer" }, one.answer ? h("bdi", {}, pieces(one.answer.text), one.answer.more > 0 && "…") : h("span", { class: "dim" }, "its file cannot be read")) },
    ];
  }

  function nothing(found, to) {
    if (found.next) return h("p", { class: "note" }, "Nothing found so far.");
    const kept = choices.phases[now.phase];
    const step = Number(now.step);
    if (!Object.keys(choices.phases).length) return h("p", { class: "note" }, "No rollout was kept yet.");
    if (kept && now.step && Number.isInteger(step) && !kept.includes(step)) {
      const near = kept.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best));
      return h("p", { class: "note" }, `The rollouts of step ${number(step)} were not kept. The nearest that were: `,
        h("a", { href: to({ step: near }), "data-item": true }, `step ${number(near)}`), ".");
    }
    if (now.phase !== "all" && !kept) return h("p", { class: "note" }, `No rollout of the phase ${now.phase} was kept.`);
    return h("p", { class: "note" }, "No rollout passes these filters. ", h("a", { href: address("rollouts", { run, phase: now.phase }) }, "Reset them"), ".");
  }

  const failed = (error) => put(holder, failure(error));
  await read().catch(failed);
  return { changed: following(async () => {
    if (!now.after) await read();
  }, failed) };
}
