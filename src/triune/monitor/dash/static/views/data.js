// What the run is fed with: how much of each source and how hard it is, what was left out and why, and the pictures.

import { get, picture } from "../api.js";
import { bars } from "../bars.js";
import { field, h, put, table } from "../dom.js";
import { number, percent } from "../format.js";
import { address, go } from "../main.js";

export async function show(root, { run, source = "" }) {
  const choice = h("select", { onchange: (event) => go("data", { run, source: event.target.value }, true) });
  const counts = h("div", { class: "scroll" });
  const difficulty = h("div", { class: "multiples" });
  const left = h("div", { class: "scroll" });
  const sheet = h("ul", { class: "sheet" });
  const more = h("button", { type: "button", onclick: () => add() }, "More");
  let next = null;
  put(root, h("h1", {}, "Data"), counts,
    h("h2", {}, "Difficulty"), h("p", { class: "dim" }, "How many of a prompt's rollouts were right, group by group; the ends teach nothing."), difficulty,
    h("h2", {}, "Left out"), left,
    h("h2", {}, "Pictures"), h("div", { class: "row" }, field("of", choice)), sheet, more);

  async function changed() {
    const found = await get("/api/data", { run });
    put(choice, h("option", { value: "" }, "all sources"), found.sources.map((one) => h("option", { value: one.name, selected: one.name === source }, one.name)));
    put(counts, table([
      { title: "source", cell: (row) => h("a", { href: address("rollouts", { run, source: row.name }), "data-item": true }, row.name) },
      { title: "task", cell: (row) => row.task },
      { title: "rollouts", number: true, cell: (row) => number(row.rollouts) },
      { title: "share", number: true, cell: (row) => percent(row.share) },
      { title: "prompts", number: true, cell: (row) => number(row.groups) },
      { title: "different samples", number: true, cell: (row) => number(row.samples) },
      { title: "pass rate", number: true, cell: (row) => percent(row.mean) },
      { title: "never right", number: true, cell: (row) => percent(row.groups ? row.bins[0].count / row.groups : null) },
      { title: "always right", number: true, cell: (row) => percent(row.groups ? row.bins.at(-1).count / row.groups : null) },
    ], found.sources, { caption: "Sources" }));
    put(difficulty, found.sources.filter((row) => row.groups).map((row) => bars({ title: row.name, bins: row.bins })));
    put(left, found.left_out.length ? table([
      { title: "what", cell: (row) => row.what },
      { title: "source", cell: (row) => row.source || "all" },
      { title: "reason", cell: (row) => row.reason || "–" },
      { title: "count", number: true, cell: (row) => number(row.count) },
    ], found.left_out, { caption: "Left out, with reasons" }) : h("p", { class: "note" }, "Nothing was left out."));
  }

  async function add() {
    const found = await get("/api/pictures", { run, source, after: next });
    next = found.next;
    more.hidden = next === null;
    for (const one of found.samples) {
      sheet.append(h("li", { class: "card" },
        h("a", { href: address("rollouts", { run, sample: one.sample }), "data-item": true },
          one.media.length ? one.media.map((sha) => thumbnail(run, sha, one.sample)) : h("span", { class: "dim" }, "no picture"),
          h("span", { class: "name" }, one.sample)),
        h("span", { class: "dim" }, `${one.source}, step ${number(one.step)}, ${one.right} of ${one.n} right`)));
    }
    if (!sheet.children.length) put(sheet, h("li", { class: "note" }, "No rollouts are kept here."));
  }

  await Promise.all([changed(), add()]);
  return { changed };
}

function thumbnail(run, sha, sample) {
  const image = h("img", { src: `${picture(run, sha)}&side=160`, alt: `Picture of ${sample}`, loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "bad" }, "the picture is missing")));
  return image;
}
