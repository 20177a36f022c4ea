// Rollouts next to each other: a group, one sample through the steps, the same samples before and after.

import { get } from "./api.js";
import { gallery, toggles } from "./boxes.js";
import { chart } from "./chart.js";
import { field, h, put, table } from "./dom.js";
import { change, exact, number } from "./format.js";
import { listState } from "./list.js";
import { address, go } from "./main.js";
import { backTo, keys, place } from "./one.js";
import { pieces, plain } from "./plain.js";
import { fate, key, long, verdictWord } from "./rollout.js";

const PAIRS = 12;

/** One of several: pictures with marks, answer, reward. */
function card(run, one, to, { title, level = 2 }) {
  return h("article", { class: "sibling", "data-key": key(one) },
    h(`h${level}`, {}, h("a", { href: to, "data-item": true }, title)),
    h("p", {}, "reward ", h("strong", {}, exact(one.reward)), " · ", verdictWord(one), one.advantage !== null && ` · advantage ${exact(one.advantage)}`, " ", fate(one),
      one.ending !== "answered" && h("span", { class: "warn" }, ` ${one.ending}`)),
    one.pictures.length > 0 && gallery(run, one.pictures, one.marks, { compact: true }),
    one.marks.problem && h("p", { class: "note warn" }, one.marks.problem),
    long(one.response));
}

export async function showGroup(root, state) {
  const { run } = state;
  const found = await get("/api/group", { run, ...place(state.at) });
  const list = listState(state);
  const to = (one) => address("rollouts", { ...list, show: "one", at: key(one) });
  const cards = h("div", { class: "siblings", tabindex: "0", role: "group", "aria-label": "Rollouts of the group, best first" },
    found.rollouts.map((one) => card(run, one, to(one), { title: `#${one.rank}` })));
  const first = found.rollouts[0];
  put(root, h("h1", {}, "Group ", plain(found.group)),
    h("p", { class: "row" }, h("span", {}, plain(found.source), ` · ${first.phase} · step ${number(first.step)} · ${number(found.total)} rollouts, best first`),
      h("a", { href: backTo(state), id: "back" }, "Back to the list (Esc)"),
      h("a", { href: address("rollouts", { ...list, show: "sample", at: state.at, id: found.sample, of: found.source }) }, "This sample through the steps (s)")),
    h("section", { class: "one-columns" }, h("div", {}, h("h2", {}, "Prompt"), long(first.prompt)), h("div", {}, h("h2", {}, "Truth"), long(first.truth))),
    h("h2", {}, "What tells them apart"), differences(found.rollouts),
    found.total > found.rollouts.length && h("p", { class: "note" }, `${number(found.total - found.rollouts.length)} more of this group are not shown.`),
    h("h2", {}, "Answers"), marked(found.rollouts) && toggles(cards), cards);
  root.querySelector("#back").focus({ preventScroll: true });
  return keys(backTo(state), { s: address("rollouts", { ...list, show: "sample", at: state.at, id: found.sample, of: found.source }) });
}

function marked(rollouts) {
  return rollouts.some((one) => one.marks.true?.length || one.marks.answered.length);
}

/** Reward, advantage, length and each component: a row, with how far each rollout is from the mean of those that have it. */
function differences(rollouts) {
  const names = [...new Set(rollouts.flatMap((one) => one.components.map((part) => part.name)))];
  const value = (name) => (one) => one.components.find((part) => part.name === name)?.value ?? null;
  const rows = [["reward", (one) => one.reward], ["advantage", (one) => one.advantage], ["tokens", (one) => one.length], ...names.map((name) => [name, value(name)])];
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Differences" }, h("table", { class: "apart" },
    h("caption", { class: "hidden" }, "Values of the group, and how far each is from the mean"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), rollouts.map((one) => h("th", { scope: "col", class: "number" }, `#${one.rank}`)))),
    h("tbody", {}, rows.map(([name, read]) => {
      const values = rollouts.map(read);
      const known = values.filter((one) => typeof one === "number");
      const mean = known.reduce((sum, one) => sum + one, 0) / known.length;
      const same = known.every((one) => Math.abs(one - known[0]) <= 1e-8);
      return h("tr", {}, h("th", { scope: "row" }, plain(name), same && known.length > 1 && h("span", { class: "dim" }, " (all alike)")), values.map((one) =>
        h("td", { class: "number" }, exact(one), typeof one === "number" && !same && h("div", { class: name === "tokens" || one === mean ? "dim" : one > mean ? "good" : "bad" }, change(one - mean)))));
    }))));
}

export async function showSample(root, state) {
  const { run, id: sample, of: source } = state;
  const found = await get("/api/sample", { run, sample, source });
  // The list that one came from is not that of this sample: its filters stay behind.
  const to = (one) => address("rollouts", { run, show: "one", at: key(one), phase: "all", sample, source });
  const drawn = found.rows.filter((one) => one.component === "policy" && typeof one.reward === "number");
  const curves = [...new Set(drawn.map((one) => one.phase))].map((phase) => curve(phase, drawn.filter((one) => one.phase === phase)));
  put(root, h("h1", {}, plain(sample)),
    h("p", { class: "row" }, h("span", {}, plain(source), ` · ${number(found.total)} rollouts were kept`),
      h("a", { href: address("rollouts", { run, phase: "all", sample, source }), id: "back" }, `As a list${state.at ? "" : " (Esc)"}`), state.at && h("a", { href: backTo(state) }, "Back to the list (Esc)")),
    found.problems.map((problem) => h("p", { class: "note bad" }, plain(problem))),
    found.first && h("section", { class: "one-columns" },
      h("div", {}, h("h2", {}, "The sample"), long(found.first.prompt), gallery(run, found.first.pictures, { ...found.first.marks, answered: [] }, { compact: true })),
      h("div", {}, h("h2", {}, "Truth"), long(found.first.truth),
        curves.length > 0 && chart({ title: "Reward of this sample", curves, unit: false, height: 150, level: 2, note: "Mean over its rollouts of a step, by phase.",
          pick: (step, line) => go("rollouts", { run, phase: line?.label || "all", sample, source, step }) }))),
    found.rows.length ? h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Rollouts of this sample" }, table([
      { title: "step", number: true, cell: (one) => number(one.step) },
      { title: "phase", cell: (one) => one.phase },
      { title: "rollout", cell: (one) => h("a", { href: to(one), "data-item": true }, `#${one.rank}`) },
      { title: "reward", number: true, cell: (one) => exact(one.reward) },
      { title: "verdict", cell: (one) => verdictWord(one) },
      { title: "components", cell: (one) => h("span", { class: "dim" }, Object.entries(one.components).map(([name, value]) => `${name} ${exact(value)}`).join(", ")) },
      { title: "tokens", number: true, cell: (one) => number(one.length) },
      { title: "trained as", cell: (one) => plain(one.component) },
    ], found.rows, { caption: "Rollouts of this sample over the run" })) : h("p", { class: "note" }, "No rollout of this sample was kept."),
    found.rows.length < found.total && h("p", { class: "note" }, `The first ${number(found.rows.length)} are shown.`));
  root.querySelector("#back").focus({ preventScroll: true });
  return keys(state.at ? backTo(state) : address("rollouts", { run, phase: "all", sample, source }));
}

/** The mean reward of a phase's steps. */
function curve(phase, rows) {
  const steps = [...new Set(rows.map((one) => one.step))].sort((a, b) => a - b);
  const of = (step) => rows.filter((one) => one.step === step).map((one) => one.reward);
  return { label: phase, step: steps, mean: steps.map((step) => of(step).reduce((sum, one) => sum + one, 0) / of(step).length) };
}

export async function showPairs(root, state) {
  const { run, before = "", after = "", kind = "", source = "", offset = "0" } = state;
  const found = await get("/api/pairs", { run, before, after, kind, source, offset });
  const kept = { run, show: "pairs", before, after, kind, source };
  const choose = (label, name, values, chosen, title = (value) => value) => field(label, h("select", { onchange: (event) => go("rollouts", { ...kept, [name]: event.target.value }) },
    values.map((value) => h("option", { value, selected: value === chosen }, title(value)))));
  const evaluation = (name) => name.replace(":", ", step ");
  const all = Object.values(found.counts).reduce((sum, one) => sum + one, 0);
  const list = h("div", { class: "pairs" }, found.pairs.map((pair) => both(run, pair, kept)));
  const to = (more) => address("rollouts", { ...kept, ...more });
  put(root, h("h1", {}, "Before and after"),
    found.evaluations.length < 2 && !found.pairs.length ? h("p", { class: "note" }, "This needs the rollouts of two evaluations of the same samples; the run has kept those of ",
      String(found.evaluations.length), ".") : [
      h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
        choose("before", "before", found.evaluations, found.before, evaluation), choose("after", "after", found.evaluations, found.after, evaluation),
        choose("show", "kind", ["", ...Object.keys(found.counts).sort()], kind, (value) => (value ? `${value} (${number(found.counts[value])})` : `all (${number(all)})`)),
        choose("source", "source", ["", ...found.sources], source, (value) => value || "any")),
      h("p", { role: "status" }, `${number(found.total)} samples`, found.unpaired > 0 && `; ${number(found.unpaired)} are in one of the two evaluations only`),
      marked(found.pairs.flatMap((pair) => [pair.before, pair.after])) && toggles(list), list,
      h("p", { class: "row" }, found.offset > 0 && h("a", { href: to({ offset: Math.max(0, found.offset - PAIRS) }) }, "Previous page"),
        found.offset + found.pairs.length < found.total && h("a", { href: to({ offset: found.offset + PAIRS }), rel: "next" }, "Next page")),
    ],
    h("p", {}, h("a", { href: address("rollouts", { run }), id: "back" }, "All rollouts (Esc)")));
  return keys(address("rollouts", { run }));
}

function both(run, pair, kept) {
  const to = (one) => address("rollouts", { run, show: "one", at: key(one), phase: one.phase, step: one.step });
  return h("section", { class: "pair", "aria-label": pair.after.sample },
    h("h2", {}, h("span", { class: pair.kind === "improved" ? "good" : pair.kind === "regressed" ? "bad" : "" }, pair.kind), " · ", plain(pair.after.sample), " ",
      h("a", { href: address("rollouts", { ...kept, show: "sample", id: pair.after.sample, of: pair.after.source }) }, "through the steps")),
    h("p", { class: "dim" }, h("bdi", {}, pieces(pair.after.prompt.text)), " · truth: ", h("bdi", {}, pieces(pair.after.truth.text))),
    h("div", { class: "pair-columns" }, card(run, pair.before, to(pair.before), { title: "before", level: 3 }), card(run, pair.after, to(pair.after), { title: "after", level: 3 })));
}
