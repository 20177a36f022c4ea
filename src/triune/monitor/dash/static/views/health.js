// Is it healthy? The panels of the server's declaration, for the whole run or one source, and the gradient by layer.

import { get } from "../api.js";
import { chart } from "../chart.js";
import { field, h, put } from "../dom.js";
import { heat } from "../heat.js";
import { go } from "../main.js";

export async function show(root, { run, source = "" }) {
  const { sources } = await get("/api/run", { run });
  const choice = h("select", { onchange: (event) => go("health", { run, source: event.target.value }) },
    h("option", { value: "" }, "all sources"), sources.map((one) => h("option", { value: one.name, selected: one.name === source }, one.name)));
  const grid = h("div", { class: "multiples" });
  const layers = h("section", { "aria-label": "Gradient norm by layer" });
  put(root, h("h1", {}, "Health"), h("div", { class: "row" }, field("of", choice)), grid, layers);
  const drawn = new Map();

  async function changed() {
    const found = await get("/api/health", { run, source });
    for (const panel of found.panels) {
      if (drawn.has(panel.title)) drawn.get(panel.title).update(panel.curves);
      else {
        const made = chart({
          title: panel.title, note: panel.note, curves: panel.curves, unit: panel.scale === "unit",
          pick: (step) => go("rollouts", { run, source, phase: "train", step }),
        });
        drawn.set(panel.title, made);
        grid.append(made);
      }
    }
    if (!found.panels.length) put(grid, h("p", { class: "note" }, "Nothing was logged yet."));
    if (found.layers.length) {
      put(layers, h("h2", {}, "Gradient norm by layer"),
        h("p", { class: "dim" }, "Colour by the logarithm, darkest where it is largest; a row that stays empty is not trained."),
        heat(found.layers.map((row) => ({ label: row.layer, step: row.step, value: row.mean }))));
    } else put(layers);
  }
  await changed();
  return { changed };
}

