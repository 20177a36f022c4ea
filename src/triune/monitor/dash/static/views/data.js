// What the run is fed with: how much of each source and how hard it is, what was left out and why, and the pictures.

import { following, get, picture } from "../api.js";
import { bars } from "../bars.js";
import { append, field, h, offerSources, put, renewed, table } from "../dom.js";
import { number, percent } from "../format.js";
import { address, failure, remember } from "../main.js";
import { plain } from "../plain.js";

export async function show(root, { run, source = "" }) {
  const problem = h("div", {});
  const choice = h("select", { onchange: (event) => choose(event.target.value) });
  const counts = h("div", { class: "scroll" });
  const difficulty = h("div", { class: "multiples", "data-size": "large" });
  const left = h("div", { class: "scroll" });
  const cards = new Map(); // number of a sample -> {element, said}
  const sheet = h("ul", { class: "sheet" });
  const none = h("p", { class: "note", hidden: true }, "No rollout was kept yet.");
  const more = h("button", { type: "button", hidden: true, onclick: () => add() }, "More");
  let next = null;
  put(root, h("h1", {}, "Data"), problem, counts,
    h("h2", {}, "Difficulty"), h("p", { class: "dim" }, "How many of a prompt's rollouts were right, group by group; the ends teach nothing."), difficulty,
    h("h2", {}, "Left out"), left,
    h("h2", {}, "Pictures"), h("div", { class: "row" }, field("source", choice)), none, sheet, more);

  const failed = (error) => put(problem, failure(error));
  const changed = following(async () => {
    const of = source;
    const [found, first] = await Promise.all([get("/api/data", { run }), get("/api/pictures", { run, source })]);
    if (of !== source) return;
    put(problem);
    offerSources(choice, found.sources.map((one) => one.name), source);
    renewed(counts, found.sources, () => (found.sources.length ? sources(run, found.sources) : h("p", { class: "note" }, "Nothing was logged yet.")));
    const hard = found.sources.filter((row) => row.groups);
    renewed(difficulty, hard, () => (hard.length ? hard.map((row) => bars({ title: row.name, bins: row.bins })) : h("p", { class: "note" }, "No rollout was kept yet.")));
    renewed(left, found.left_out, () => (found.left_out.length ? leftOut(found.left_out) : h("p", { class: "note" }, "Nothing was left out.")));
    if (!cards.size) next = first.next;
    place(first.samples, true);
  }, failed);

  /** What is new comes first; what is there stays where it is, with what is known of it now. */
  function place(samples, newest) {
    const fresh = samples.map((one) => known(one)).filter((element) => !element.isConnected);
    if (newest) sheet.prepend(...fresh);
    else sheet.append(...fresh);
    none.hidden = cards.size > 0;
    more.hidden = next === null;
  }

  function known(one) {
    const said = `step ${number(one.step)}, ${number(one.right)} of ${number(one.n)} right`;
    const card = cards.get(one.key) ?? cards.set(one.key, { element: h("li", { class: "card" }), said: null }).get(one.key);
    if (card.said === null) append(card.element, pictured(run, one), h("span", { class: "dim" }, plain(one.source), ", ", h("span", { class: "state-of" })));
    if (card.said !== said) put(card.element.querySelector(".state-of"), card.said = said);
    return card.element;
  }

  async function add() {
    more.disabled = true;
    const of = source;
    try {
      const found = await get("/api/pictures", { run, source, before: next });
      if (of !== source) return;
      next = found.next;
      place(found.samples, false);
    } catch (error) {
      failed(error);
    } finally {
      more.disabled = false;
    }
  }

  function choose(name) {
    source = name;
    remember({ source });
    cards.clear();
    put(sheet);
    return changed();
  }

  await changed();
  return { changed };
}

function sources(run, rows) {
  const share = (count, row) => percent(row.groups ? count / row.groups : null);
  return table([
    { title: "source", cell: (row) => h("a", { href: address("rollouts", { run, source: row.name }), "data-item": true }, plain(row.name)) },
    { title: "task", cell: (row) => plain(row.task) },
    { title: "rollouts", number: true, cell: (row) => number(row.rollouts) },
    { title: "share", number: true, cell: (row) => percent(row.share) },
    { title: "prompts", number: true, cell: (row) => number(row.groups) },
    { title: "different samples", number: true, cell: (row) => number(row.samples) },
    { title: "pass rate", number: true, cell: (row) => percent(row.mean) },
    { title: "never right", number: true, cell: (row) => share(row.bins[0].count, row) },
    { title: "always right", number: true, cell: (row) => share(row.bins.at(-1).count, row) },
  ], rows, { caption: "Sources" });
}

function leftOut(rows) {
  return table([
    { title: "what", cell: (row) => row.what },
    { title: "source", cell: (row) => (row.source ? plain(row.source) : "all") },
    { title: "reason", cell: (row) => (row.reason ? plain(row.reason) : "–") },
    { title: "count", number: true, cell: (row) => number(row.count) },
  ], rows, { caption: "Left out, with reasons" });
}

/** The pictures of a sample, which lead to its rollouts. */
function pictured(run, one) {
  return h("a", { href: address("rollouts", { run, sample: one.sample, source: one.source, phase: "all" }), "data-item": true },
    one.media.length ? one.media.map((sha) => thumbnail(run, sha, one.sample)) : h("span", { class: "dim" }, "no picture"),
    h("span", { class: "name" }, plain(one.sample)));
}

function thumbnail(run, sha, sample) {
  const image = h("img", { src: `${picture(run, sha)}&side=160`, alt: `Picture of ${sample}`, loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "bad" }, "the picture is missing")));
  return image;
}
