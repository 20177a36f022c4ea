// Reward and held-out accuracy of every source, on one screen.

import { get } from "../api.js";
import { chart } from "../chart.js";
import { h, put } from "../dom.js";

export async function show(root, { run }) {
  const panels = new Map();
  const grid = h("div", { class: "multiples" });
  put(root, h("h1", {}, "Overview"), grid);

  async function changed() {
    const [reward, heldOut] = await Promise.all([
      get("/api/series", { run, name: "reward" }),
      get("/api/series", { run, name: "accuracy", phase: "eval" }),
    ]);
    const sources = new Map();
    for (const [label, found] of [["reward", reward], ["held-out", heldOut]]) {
      for (const curve of found.curves) {
        const lines = sources.get(curve.key.source) || sources.set(curve.key.source, []).get(curve.key.source);
        lines.push({ label, ...curve, kind: label === "reward" ? 0 : 1 });
      }
    }
    for (const [source, curves] of [...sources].sort()) {
      if (!panels.has(source)) {
        panels.set(source, chart({ title: source, curves, unit: true }));
        grid.append(panels.get(source));
      } else panels.get(source).update(curves);
    }
  }
  await changed();
  return { changed };
}
