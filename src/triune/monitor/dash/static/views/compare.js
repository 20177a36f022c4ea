// Several runs on one axis: overlaid, subtracted, as mean and band over seeds; their held-out answers, and their recipes.

import { following, get } from "../api.js";
import { chart } from "../chart.js";
import { choices, field, h, put, renew, table } from "../dom.js";
import { change, colour, number } from "../format.js";
import { address, failure, remember } from "../main.js";
import { recipeTable } from "../recipes.js";
import { around, drawn, settings } from "../settings.js";

const BY = [["source", "source"], ["task", "task"], ["component", "reward component"], ["", "nothing: one chart"]];
const POINTS = 200; // of each curve
const SPREAD = { "min-max": "from the least to the greatest of its seeds", t95: "the 95 % interval of the mean over its seeds" };

export async function show(root, state) {
  let runs = (state.runs || "").split(":").filter(Boolean);
  const now = { name: state.name || "reward", phase: state.phase || "train", by: state.by === "all" ? "" : state.by || "source", seeds: state.seeds === "1", against: state.against || "" };
  let options = drawn({ ...state, axis: "" });
  let zoom = null;
  let outline = null;
  const panels = new Map(); // key -> {element, said}

  const problem = h("div", {});
  const chips = h("ul", { class: "legend", "aria-label": "Chosen runs" });
  const why = h("div", {});
  const metric = h("select", { onchange: (event) => take({ name: event.target.value }) });
  const phase = h("select", { onchange: (event) => take({ phase: event.target.value }) });
  const by = h("select", { onchange: (event) => take({ by: event.target.value }) }, choices(BY, now.by));
  const seeds = h("input", { type: "checkbox", checked: now.seeds, onchange: (event) => take({ seeds: event.target.checked, against: "" }) });
  const against = h("select", { onchange: (event) => take({ against: event.target.value }) });
  const legend = h("ul", { class: "legend", "aria-label": "Curves" });
  const notes = h("div", {});
  const grid = h("div", { class: "multiples" });
  const heldOut = h("section", { "aria-label": "Held-out answers" });
  const recipes = h("section", { "aria-label": "Recipe difference" });
  const body = h("div", { hidden: true },
    h("div", { class: "row" }, field("Metric", metric), field("of", phase), field("by", by), field("Mean and band over seeds", seeds), field("Difference from", against),
      settings(state, (next) => { options = next; restyle(); }, { time: false })),
    notes, legend, grid, heldOut, recipes);
  put(root, h("h1", {}, "Compare"), problem, h("div", { class: "row" }, chips, h("a", { href: address("runs", { runs: runs.join(":") }) }, "Choose runs")), why, body);

  const refresh = following(async () => {
    put(problem);
    drawChips();
    body.hidden = runs.length === 0;
    if (!runs.length) {
      put(why, h("p", { class: "note" }, "Select runs in the list of runs, then press Compare."));
      return;
    }
    outline = await get("/api/compare", { run: runs });
    put(why, outline.problems.map((one) => h("p", { class: "note warn" }, `${one.run}: ${one.why}.`)));
    offer();
    put(recipes, h("h2", {}, "Recipes"), recipeTable({ ...outline, problems: [] }));
    await Promise.all([drawCurves(), drawHeldOut()]);
  }, (error) => put(problem, failure(error)));

  function take(next) {
    Object.assign(now, next);
    const kept = { ...now, by: now.by || "all", seeds: now.seeds ? "1" : "" };
    remember(kept);
    refresh();
  }

  function drawChips() {
    put(chips, runs.map((run) => h("li", {}, h("a", { href: address("overview", { run }), "data-item": true }, run), " ",
      h("button", { type: "button", "aria-label": `leave out ${run}`, onclick: () => { runs = runs.filter((one) => one !== run); remember({ runs: runs.join(":") }); take({ against: "" }); } }, "×"))));
  }

  function offer() {
    const phases = Object.keys(outline.metrics);
    if (phases.length && !phases.includes(now.phase)) now.phase = phases.includes("train") ? "train" : phases[0];
    const names = outline.metrics[now.phase] || [];
    if (names.length && !names.includes(now.name)) now.name = ["reward", "accuracy"].find((one) => names.includes(one)) || names[0];
    renew(phase, choices(phases.map((one) => [one, one]), now.phase));
    renew(metric, choices(names.map((one) => [one, one]), now.name));
    const groups = now.seeds ? outline.configurations.map((one) => one.name) : outline.runs.map((run) => run.name);
    if (!groups.includes(now.against)) now.against = "";
    renew(against, choices([["", "nothing"], ...groups.map((one) => [one, one])], now.against));
    seeds.disabled = !outline.configurations.some((one) => one.runs.length > 1) && !now.seeds;
  }

  async function drawCurves() {
    if (!outline.runs.length) return;
    const found = await get("/api/compare/curves", { run: runs, name: now.name, phase: now.phase, by: now.by, seeds: now.seeds, against: now.against, ...around(zoom, POINTS) });
    const kind = (label) => found.groups.indexOf(label);
    const elements = found.panels.map((one) => panel(one, one.curves.map((curve) => ({ ...curve, kind: kind(curve.label) }))));
    grid.dataset.size = elements.length > 12 ? "medium" : "large";
    if (elements.length !== grid.children.length || elements.some((element, n) => grid.children[n] !== element)) grid.replaceChildren(...elements);
    const all = found.panels.flatMap((one) => one.curves);
    put(legend, found.groups.filter((label) => label !== now.against).map((label) => h("li", {}, h("span", { class: `swatch ${colour(kind(label))}` }), label)));
    const kinds = new Set(all.map((curve) => curve.kind).filter(Boolean));
    put(notes,
      found.missing.map((run) => h("p", { class: "note warn" }, `${run} has no ${now.name} in ${now.phase}.`)),
      now.against && h("p", { class: "dim" }, `Each curve less that of ${now.against}${now.seeds ? ", its mean over seeds" : ""}, over the steps that both have.`),
      [...kinds].map((one) => h("p", { class: "dim" }, `The band of a configuration is ${SPREAD[one]}${now.against ? "; that of the one subtracted is not in it" : ""}.`)),
      all.some((curve) => curve.made > 0) && h("p", { class: "dim" }, "Runs that were logged at other steps are joined on straight lines between their own."),
      all.length === 0 && h("p", { class: "note" }, "There is nothing to draw."));
  }

  function panel(one, curves) {
    const said = JSON.stringify(curves);
    const key = JSON.stringify([now.name, now.phase, now.by, Boolean(now.against), one.key]);
    const known = panels.get(key);
    if (known?.said === said) return known.element;
    if (known) known.element.update(curves);
    const element = known?.element ?? chart({ title: one.key || (now.by ? `no ${now.by}` : now.name), curves, legend: false, options: { ...options, zoom }, zoomed: (range) => { zoom = range; restyle(); refresh(); } });
    panels.set(key, { element, said });
    return element;
  }

  function restyle() {
    for (const { element } of panels.values()) element.set({ ...options, zoom });
  }

  async function drawHeldOut() {
    if (outline.runs.length < 2) {
      put(heldOut);
      return;
    }
    const found = await get("/api/compare/held-out", { run: runs, seeds: now.seeds, against: now.against });
    put(heldOut, h("h2", {}, "Held-out answers, paired by sample"),
      found.problems.map((one) => h("p", { class: "note warn" }, `${one.run}: ${one.why}.`)),
      found.comparisons.map((one) => comparison(one, found.against)));
  }

  await refresh();
  return {
    changed: (news) => (outline && runs.every((run) => news.runs?.[run] === outline.stamps[run]) ? undefined : refresh()),
  };
}

function comparison(one, base) {
  const rows = [one.mean, ...(one.tasks.length > 1 ? one.tasks.map((row) => ({ ...row, task: true })) : []), ...one.sources];
  const covers = new Set(rows.map((row) => row.covers));
  return [
    h("h3", {}, `${one.name} against ${base}`),
    h("p", { class: "dim" }, `Accuracy of ${one.name} (${one.at}) less that of ${base} (${one.base_at}) on the same samples, with 95 % intervals over ${[...covers].join(", or over ")}.`),
    h("div", { class: "scroll" }, table([
      { title: "source", cell: (row) => (row === one.mean ? h("strong", {}, row.name) : row.task ? `task ${row.name}` : row.name) },
      { title: base, number: true, cell: (row) => number(row.before) },
      { title: one.name, number: true, cell: (row) => number(row.after) },
      { title: "difference", number: true, cell: (row) => h("span", { class: sure(row) }, change(row.gain)) },
      { title: "95 % interval", number: true, cell: (row) => (row.ci95 ? `${change(row.ci95[0])} to ${change(row.ci95[1])}` : "–") },
      { title: "samples", number: true, cell: (row) => number(row.n) },
      { title: "left out", number: true, cell: (row) => (row.unpaired ? number(row.unpaired) : "") },
    ], rows, { caption: `${one.name} against ${base}` })),
  ];
}

/** Coloured only where the interval leaves out 0. */
function sure(row) {
  if (!row.ci95) return null;
  return row.ci95[0] > 0 ? "good" : row.ci95[1] < 0 ? "bad" : null;
}
