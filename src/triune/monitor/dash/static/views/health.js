// Is it healthy? The panels of the server's declaration, for the whole run or one source, and the gradient by layer.

import { following, get } from "../api.js";
import { chart } from "../chart.js";
import { field, h, offerSources, put, renewed } from "../dom.js";
import { share } from "../format.js";
import { heat } from "../heat.js";
import { failure, go, remember } from "../main.js";
import { around, drawn, settings } from "../settings.js";

const POINTS = 300; // of each curve: a chart is about as many pixels wide

export async function show(root, state) {
  const { run, source = "" } = state;
  const panels = new Map(); // title -> {element, log}
  let options = drawn({ ...state, axis: "" });
  let zoom = state.since && state.until ? [Number(state.since), Number(state.until)] : null;

  const choice = h("select", { onchange: (event) => go("health", { run, source: event.target.value }) });
  const problem = h("div", {});
  const grid = h("div", { class: "multiples" });
  const layers = h("div", {});
  const gradients = h("section", { "aria-label": "Gradient norm by layer", hidden: true }, h("h2", {}, "Gradient norm by layer"),
    h("p", { class: "dim" }, "Colour by the logarithm, darkest where it is largest, red where it was not finite; a row that stays empty is not trained."), layers);
  put(root, h("h1", {}, "Health"), h("div", { class: "row" }, field("source", choice), settings(state, (next) => { options = next; restyle(); }, { time: false })),
    problem, grid, gradients);

  const changed = following(async () => {
    const [outline, found] = await Promise.all([get("/api/run", { run }), get("/api/health", { run, source, ...around(zoom, POINTS) })]);
    put(problem, !found.panels.length && h("p", { class: "note" }, source ? `Nothing was logged of ${source}.` : "Nothing was logged yet."));
    offerSources(choice, outline.sources.map((one) => one.name), source);
    const elements = found.panels.map(panel);
    if (elements.length !== grid.children.length || elements.some((element, n) => grid.children[n] !== element)) grid.replaceChildren(...elements);
    gradients.hidden = !found.layers.length;
    renewed(layers, found.layers, () => found.layers.length > 0 && heat(found.layers));
  }, (error) => put(problem, failure(error)));

  function panel(one) {
    const log = one.scale === "log" && one.curves.some((curve) => curve.mean.some((value) => value > 0));
    const known = panels.get(one.title);
    if (known) {
      known.element.update(one.curves);
      if (known.log !== log) known.element.set(style(known.log = log));
      return known.element;
    }
    const element = chart({
      title: one.title, note: one.note, curves: one.curves, unit: one.scale === "unit", options: style(log), zoomed,
      say: one.scale === "share" ? share : undefined, pick: (step) => go("rollouts", { run, source, phase: "train", step }),
    });
    panels.set(one.title, { element, log });
    return element;
  }

  /** A panel of what may spike is on a log scale whatever is chosen for the others. */
  function style(log) {
    return { ...options, log: options.log || log, zoom };
  }

  function restyle() {
    for (const { element, log } of panels.values()) element.set(style(log));
  }

  function zoomed(range) {
    zoom = range;
    remember({ since: range ? Math.floor(range[0]) : "", until: range ? Math.ceil(range[1]) : "" });
    restyle();
    changed();
  }

  await changed();
  return { changed };
}
