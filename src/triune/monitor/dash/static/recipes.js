// What the recipes of several runs say differently.

import { h, table } from "./dom.js";

/** `found`: {runs: [{name}], diff: [{key, values: [text or null, one per run]}], problems: [{run, why}]}. */
export function recipeTable({ runs, diff, problems }) {
  return [
    problems.map((one) => h("p", { class: "note warn" }, `${one.run}: ${one.why}`)),
    diff.length
      ? h("div", { class: "scroll" }, table([
        { title: "key", cell: (row) => h("code", {}, row.key) },
        ...runs.map((run, n) => ({ title: run.name, cell: (row) => (row.values[n] === null ? h("span", { class: "dim" }, "not there") : h("code", {}, row.values[n])) })),
      ], diff, { caption: "Recipe difference" }))
      : h("p", { class: "note" }, runs.length > 1 ? "Their recipes say the same." : "Two runs with a recipe are needed."),
  ];
}
