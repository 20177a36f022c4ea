// The runs of the folder.

import { get } from "../api.js";
import { h, put, table } from "../dom.js";
import { ago, number } from "../format.js";
import { address } from "../main.js";

export async function show(root) {
  const list = h("div", { class: "scroll" });
  put(root, h("h1", {}, "Runs"), list);
  async function changed() {
    const { runs } = await get("/api/runs");
    put(list, runs.length ? table([
      { title: "run", cell: (run) => h("a", { href: address("overview", { run: run.name }), "data-item": true }, run.name) },
      { title: "state", cell: (run) => run.error ? h("span", { class: "bad" }, run.error) : run.live ? h("span", { class: "good" }, "live") : "" },
      { title: "step", number: true, cell: (run) => number(run.step) + (run.total_steps ? ` / ${number(run.total_steps)}` : "") },
      { title: "last written", cell: (run) => (run.updated ? ago(run.updated) : "–") },
    ], runs, { caption: "Runs" }) : h("p", { class: "note" }, "No run here yet: they appear as soon as one is started."));
  }
  await changed();
  return { changed };
}
