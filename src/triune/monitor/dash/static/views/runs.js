// The runs of the folder: where each stands, which are alike, and what they are called.

import { following, get, post } from "../api.js";
import { recipeTable } from "../recipes.js";
import { append, field, h, put } from "../dom.js";
import { ago, change, number } from "../format.js";
import { address, failure, go, remember } from "../main.js";

const COLUMNS = [
  { key: "name", title: "run", of: (run) => [run.name, run.matched], cell: named, order: (run) => run.name.toLowerCase() },
  { key: "state", title: "state", of: standing, cell: stated, order: (run) => standing(run)[0] },
  { key: "step", title: "step", number: true, of: (run) => [run.step, run.total_steps], order: (run) => run.step,
    cell: (run) => (run.step === undefined ? "–" : number(run.step) + (run.total_steps ? ` / ${number(run.total_steps)}` : "")) },
  { key: "updated", title: "last written", of: (run) => run.updated && ago(run.updated), cell: (run) => (run.updated ? ago(run.updated) : "–"), order: (run) => run.updated },
  { key: "reward", title: "reward", number: true, of: (run) => run.reward, cell: (run) => number(run.reward), order: (run) => run.reward },
  { key: "held_out", title: "held-out", number: true, of: (run) => run.held_out, cell: (run) => number(run.held_out), order: (run) => run.held_out },
  { key: "gain", title: "gain", number: true, of: (run) => run.gain, cell: (run) => change(run.gain), order: (run) => run.gain },
  { key: "alarms", title: "alarms", of: (run) => run.alarms, cell: alarmed, order: (run) => run.alarms?.length ?? 0 },
  { key: "tags", title: "tags", of: (run) => run.tags, cell: (run) => run.tags.map((tag) => h("span", { class: "tag" }, tag)), order: (run) => run.tags.join(" ").toLowerCase() },
];
const AGE_MS = 5000;

export async function show(root, state) {
  const selected = new Set((state.runs || "").split(":").filter(Boolean));
  const lines = new Map(); // name -> {row, run, cells, said}
  let sort = { key: state.sort || "", down: state.down === "1" };
  let text = state.text || "";
  let found = [];
  let differing = false;

  const search = h("input", { type: "search", value: text, placeholder: "name, tag, or a line of the recipe", size: "32", oninput: typed });
  const told = h("span", { class: "dim", role: "status" });
  const compare = h("button", { type: "button", onclick: () => go("compare", { runs: [...selected].join(":") }) }, "Compare");
  const differ = h("button", { type: "button", "aria-expanded": "false", onclick: difference }, "Recipe difference");
  const none = h("button", { type: "button", onclick: () => select([...selected], false) }, "Select none");
  const problem = h("div", {});
  const body = h("tbody", {});
  const heads = COLUMNS.map((column) => h("th", { scope: "col", class: column.number ? "number" : null },
    h("button", { type: "button", class: "sort", onclick: () => sorted(column.key) }, column.title)));
  const list = h("div", { class: "scroll" }, h("table", { class: "runs" }, h("caption", { class: "hidden" }, "Runs"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "hidden" }, "selected")), heads)), body));
  const nothing = h("p", { class: "note" });
  const recipes = h("section", { "aria-label": "Recipe difference", hidden: true });
  put(root, h("h1", {}, "Runs"), h("div", { class: "row" }, field("Search", search), compare, differ, none, told), problem, list, nothing, recipes);

  const refresh = following(async () => {
    const answer = await get("/api/runs", { text });
    found = answer.runs;
    put(problem);
    drawRows();
    if (answer.waiting) refresh();
  }, (error) => put(problem, failure(error)));

  function drawRows() {
    const runs = ordered(found, sort);
    for (const run of runs) {
      const line = lines.get(run.name) || lines.set(run.name, newLine(run)).get(run.name);
      line.run = run;
      fillIn(line);
    }
    const focused = document.activeElement;
    const rows = runs.map((run) => lines.get(run.name).row);
    if (rows.length !== body.children.length || rows.some((row, n) => body.children[n] !== row)) {
      body.replaceChildren(...rows);
      if (body.contains(focused)) focused.focus({ preventScroll: true });
    }
    heads.forEach((head, n) => {
      if (COLUMNS[n].key === sort.key) head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    list.hidden = !runs.length;
    nothing.hidden = runs.length > 0;
    put(nothing, text ? "No run has all of these words in its name, its tags or its recipe." : "No run here yet: they appear as soon as one is started.");
    tell();
  }

  function newLine(run) {
    const box = h("input", { type: "checkbox", "aria-label": `select ${run.name}`, checked: selected.has(run.name), onchange: (event) => select([run.name], event.target.checked) });
    const cells = COLUMNS.map((column) => h("td", { class: column.number ? "number" : null }));
    const edit = h("button", { type: "button", class: "quiet", "aria-label": `tags of ${run.name}`, onclick: () => editTags(lines.get(run.name).run, refresh) }, "edit");
    const tags = h("span", {});
    append(cells.at(-1), tags, " ", edit);
    return { row: h("tr", {}, h("td", {}, box), cells), box, places: [...cells.slice(0, -1), tags], said: [] };
  }

  function fillIn(line) {
    line.box.checked = selected.has(line.run.name);
    COLUMNS.forEach((column, n) => {
      const said = JSON.stringify(column.of(line.run) ?? null);
      if (line.said[n] === said) return;
      line.said[n] = said;
      const focused = line.places[n].contains(document.activeElement);
      put(line.places[n], column.cell(line.run));
      if (focused) line.places[n].querySelector("a, button")?.focus({ preventScroll: true });
    });
  }

  function select(names, chosen) {
    for (const name of names) {
      if (chosen) selected.add(name);
      else selected.delete(name);
      const line = lines.get(name);
      if (line) line.box.checked = chosen;
    }
    remember({ runs: [...selected].join(":") });
    tell();
    if (differing) drawDifference();
  }

  function tell() {
    const hidden = [...selected].filter((name) => !found.some((run) => run.name === name)).length;
    put(told, `${number(found.length)} ${found.length === 1 ? "run" : "runs"}`, selected.size > 0 && `, ${selected.size} selected`, hidden > 0 && ` (${hidden} not shown)`);
    compare.disabled = selected.size < 1;
    none.disabled = selected.size < 1;
    differ.disabled = selected.size < 2;
  }

  function typed(event) {
    text = event.target.value;
    remember({ text });
    refresh();
  }

  function sorted(key) {
    sort = sort.key !== key ? { key, down: false } : sort.down ? { key: "", down: false } : { key, down: true };
    remember({ sort: sort.key, down: sort.down ? "1" : "" });
    drawRows();
  }

  function difference() {
    differing = !differing;
    recipes.hidden = !differing;
    differ.setAttribute("aria-expanded", String(differing));
    if (differing) drawDifference();
  }

  async function drawDifference() {
    try {
      put(recipes, h("h2", {}, "Recipe difference"), selected.size < 2 ? h("p", { class: "note" }, "Select two runs or more.")
        : recipeTable(await get("/api/compare/recipes", { run: [...selected] })));
    } catch (error) {
      put(recipes, failure(error));
    }
  }

  await refresh();
  const aging = setInterval(() => lines.forEach(fillIn), AGE_MS);
  return { changed: refresh, close: () => clearInterval(aging) };
}

function named(run) {
  return [h("a", { href: address("overview", { run: run.name }), "data-item": true }, run.name),
    run.matched.map((line) => h("div", { class: "dim mono" }, line))];
}

function standing(run) {
  if (run.error) return ["unreadable", run.error];
  if (run.waiting) return ["…"];
  if (run.live) return ["live"];
  return [run.total_steps && run.step >= run.total_steps ? "finished" : "stopped"];
}

function stated(run) {
  const [state, why] = standing(run);
  return h("span", { class: { live: "good", unreadable: "bad" }[state] ?? "dim" }, why || state);
}

function alarmed(run) {
  if (!run.alarms?.length) return "";
  const stop = run.alarms.some((alarm) => alarm.level === "stop");
  return h("a", { href: address("alarms", { run: run.name }), class: stop ? "bad" : "warn", title: run.alarms.map((alarm) => alarm.said).join("\n") },
    `${run.alarms.length} ${run.alarms.length === 1 ? "alarm" : "alarms"}`);
}

/** By a column; what has no value comes last, either way. Without one as the server gave them: newest first. */
function ordered(runs, { key, down }) {
  const column = COLUMNS.find((one) => one.key === key);
  if (!column) return runs;
  const missing = (value) => value === null || value === undefined;
  return [...runs].sort((one, other) => {
    const [a, b] = [column.order(one), column.order(other)];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
  });
}

function editTags(run, saved) {
  let tags = [...run.tags];
  const chips = h("ul", { class: "legend" });
  const input = h("input", { type: "text", maxlength: "60", size: "24" });
  const problem = h("div", {});
  const dialog = h("dialog", { "aria-labelledby": "tags-title", onclose: () => dialog.remove() },
    h("h2", { id: "tags-title" }, `Tags of ${run.name}`), chips,
    h("form", { onsubmit: add }, h("div", { class: "row" }, field("New tag", input), h("button", {}, "Add"))), problem,
    h("div", { class: "row" }, h("button", { type: "button", onclick: save }, "Save"), h("button", { type: "button", onclick: () => dialog.close() }, "Cancel")));

  function draw() {
    put(chips, tags.map((tag) => h("li", {}, h("span", { class: "tag" }, tag), " ",
      h("button", { type: "button", "aria-label": `remove ${tag}`, onclick: () => { tags = tags.filter((one) => one !== tag); draw(); input.focus(); } }, "×"))));
  }
  function take() {
    const tag = input.value.trim();
    if (tag && !tags.includes(tag)) tags.push(tag);
    input.value = "";
  }
  function add(event) {
    event.preventDefault();
    take();
    draw();
  }
  async function save() {
    take();
    try {
      await post("/api/runs/tags", { run: run.name }, { tags });
      dialog.close();
      saved();
    } catch (error) {
      put(problem, failure(error));
    }
  }
  draw();
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
}
