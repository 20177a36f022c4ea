// Every source against every component and diagnostic. A cell opens its curve, and a step of the curve its rollouts.

import { following, get } from "../api.js";
import { chart } from "../chart.js";
import { field, h, put } from "../dom.js";
import { change, number } from "../format.js";
import { address, failure, go, remember } from "../main.js";
import { plain } from "../plain.js";

const WINDOWS = [10, 50, 100, 500, 1000, 0];
const HELD_OUT = "held-out";

export async function show(root, state) {
  const { run, phase = "train", source = "", column = "", find = "" } = state;
  const window = Number(state.window ?? 100);
  const every = state.every === "1";
  const kept = { run, phase, window: state.window, every: state.every, sort: state.sort, find };
  const curve = h("div", { class: "matrix-curve" });
  const holder = h("div", {});
  let found = null;
  let at = null; // the cell that Tab leads to

  const outline = await get("/api/run", { run });
  const phases = outline.phases.some((one) => one.startsWith("eval")) ? [...outline.phases, HELD_OUT] : outline.phases;
  put(root, h("h1", {}, "Matrix"),
    h("form", { class: "row", role: "search", onsubmit: (event) => event.preventDefault() },
      field("phase", choice(phases, phase, (value) => value, (value) => go("matrix", { ...kept, phase: value }))),
      field("change over", choice(WINDOWS, window, (value) => (value ? `${number(value)} steps` : "the whole run"), (value) => go("matrix", { ...kept, window: value }))),
      field("sources", h("input", { type: "search", value: find, size: 14, oninput: (event) => narrowed(event.target.value) })),
      h("label", {}, h("input", { type: "checkbox", checked: every, onchange: (event) => go("matrix", { ...kept, every: event.target.checked ? "1" : "" }) }), " every metric")),
    curve,
    h("p", { class: "dim matrix-key" }, "The last value, and below it the change between the first and the last tenth of the window. Colour: green is better, red worse, grey neither; from 2 standard errors on, bold from 5."),
    holder);

  function narrowed(value) {
    kept.find = value;
    remember({ find: value });
    draw();
  }

  async function read() {
    found = await get("/api/matrix", { run, phase, window, every: every ? "true" : null });
    draw();
  }

  function draw() {
    if (!found.rows.length) {
      put(holder, h("p", { class: "note" }, `Nothing was logged per source in the phase ${phase} yet.`));
      return;
    }
    const words = kept.find.toLowerCase();
    const rows = sorted(found, state.sort).filter((row) => row.source.toLowerCase().includes(words) || row.task.toLowerCase().includes(words));
    const focused = holder.contains(document.activeElement) ? document.activeElement.dataset.cell : null;
    const scroll = [holder.firstChild?.scrollLeft || 0, holder.firstChild?.scrollTop || 0];
    put(holder, rows.length ? h("div", { class: "matrix-scroll", onkeydown: moved }, h("table", { class: "matrix" },
      h("caption", { class: "hidden" }, `Sources and components of ${run}, phase ${phase}, steps ${found.since} to ${found.last}`),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "source"), found.columns.map(head))),
      h("tbody", {}, rows.map((row, y) => h("tr", {}, h("th", { scope: "row", title: row.source }, plain(row.source)), row.cells.map((cell, x) => h("td", cellClass(cell, x), drawn(row, cell, x, y))))))))
      : h("p", { class: "note" }, `No source is called “${kept.find}”.`));
    holder.firstChild.scrollTo?.(...scroll);
    const links = [...holder.querySelectorAll("a")];
    const here = links.find((link) => link.dataset.cell === (focused ?? at ?? cellName(source, column))) || links[0];
    if (here) here.tabIndex = 0;
    if (focused && here?.dataset.cell === focused) here.focus();
  }

  function head(one) {
    const key = id(one);
    const order = state.sort === key ? "descending" : state.sort === `-${key}` ? "ascending" : null;
    return h("th", { scope: "col", "aria-sort": order },
      h("button", { type: "button", title: `${title(one)}: sort by it`, onclick: () => go("matrix", { ...kept, source, column, sort: state.sort === key ? `-${key}` : key }) },
        title(one).split(/(?<=[_/(])/).map((part) => [h("wbr"), plain(part)]), order ? (order === "descending" ? " ↓" : " ↑") : ""));
  }

  function cellClass(cell, x) {
    if (!cell) return {};
    const sign = Math.sign(cell.change || 0) * found.columns[x].better;
    return { class: `l${cell.level} ${sign > 0 ? "better" : sign < 0 ? "worse" : "other"}` };
  }

  function drawn(row, cell, x, y) {
    if (!cell) return null;
    const one = found.columns[x];
    const said = cell.nonfinite ? `, ${cell.nonfinite} not finite` : "";
    const errors = cell.errors === null || cell.change === null ? "" : `, ${number(cell.errors)} standard errors`;
    return h("a", {
      href: address("matrix", { ...kept, source: row.source, column: id(one) }), tabindex: "-1", "data-cell": cellName(row.source, id(one)), "data-x": x, "data-y": y,
      class: row.source === source && id(one) === column ? "chosen" : null,
      title: `${row.source}, ${title(one)}: ${number(cell.now)} at step ${number(cell.step)} (${number(cell.count)} values), changed by ${change(cell.change)}${errors}${said}`,
      onclick: () => { at = cellName(row.source, id(one)); },
    }, number(cell.now), h("span", { class: "by" }, cell.nonfinite ? "NaN! " : "", by(cell)));
  }

  function moved(event) {
    const link = event.target.closest("a[data-cell]");
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!link || !step) return;
    event.preventDefault();
    let [x, y] = [Number(link.dataset.x) + step[0], Number(link.dataset.y) + step[1]];
    const size = [found.columns.length, holder.querySelectorAll("tbody tr").length];
    // Over the cells that are empty.
    for (; x >= 0 && y >= 0 && x < size[0] && y < size[1]; x += step[0], y += step[1]) {
      const next = holder.querySelector(`a[data-x="${x}"][data-y="${y}"]`);
      if (!next) continue;
      link.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      at = next.dataset.cell;
      return;
    }
  }

  async function open() {
    const [name, label, value] = parts(column);
    const inside = found.phase === HELD_OUT ? outline.phases.filter((one) => /^eval(-before|-after)?$/.test(one)) : [phase];
    const where = [`source=${source}`, ...(label ? [`${label}=${value}`] : [])];
    const read = await Promise.all(inside.map((one) => get("/api/series", { run, name, phase: one, by: "source", where })));
    const curves = read.flatMap((one, n) => one.curves.map((line) => ({ label: inside[n], ...line, low: beside(line, -1), high: beside(line, 1) })));
    const picked = (step, line) => go("rollouts", {
      run, phase: line.label, source, step, component: /^(component|verifier)/.test(name) ? value : null, ...(name === "status" || name === "ending" ? { [name]: value } : {}),
    });
    const drawn = curve.querySelector("figure");
    if (drawn) {
      drawn.update(curves);
      return;
    }
    put(curve, chart({ title: `${title({ name, label, value })} · ${source}`, curves, height: 150, level: 2, pick: picked,
      note: "The band is one standard deviation of the values of a step. A step opens its rollouts." }),
    h("p", {}, h("a", { href: address("rollouts", { run, phase: inside[0], source }) }, "All rollouts of this source"), " · ",
      h("a", { href: address("matrix", kept) }, "Close (Esc)")));
  }

  function escaped(event) {
    if (event.key === "Escape" && source && !document.querySelector("dialog[open]")) go("matrix", kept);
  }
  document.addEventListener("keydown", escaped);

  async function update() {
    await read();
    if (source && column) await open();
  }
  await update();
  const changed = following(update, (error) => put(holder, failure(error)));
  (curve.querySelector("svg") || (root.isConnected && state.column ? holder.querySelector("a") : null))?.focus();
  return { changed, close: () => document.removeEventListener("keydown", escaped) };
}

function choice(values, chosen, name, changed) {
  return h("select", { onchange: (event) => changed(event.target.value) },
    values.map((value) => h("option", { value, selected: String(value) === String(chosen) }, name(value))));
}

/** What a column is called in the address, and back. */
function id({ name, label, value }) {
  return label ? `${name}|${label}|${value}` : name;
}

function parts(column) {
  const [name, label = "", ...value] = column.split("|");
  return [name, label, value.join("|")];
}

function title({ name, label, value }) {
  return label ? `${value} (${name})` : name;
}

function cellName(source, column) {
  return `${column} ${source}`;
}

function by(cell) {
  if (cell.change === null) return "new";
  return `${cell.change > 0 ? "▲" : cell.change < 0 ? "▼" : "="} ${cell.change ? change(cell.change) : 0}`;
}

function beside(line, sign) {
  return line.mean.map((mean, n) => (mean === null ? null : mean + sign * line.std[n]));
}

function sorted(found, sort) {
  if (!sort) return found.rows;
  const falling = !sort.startsWith("-");
  const x = found.columns.findIndex((one) => id(one) === sort.replace(/^-/, ""));
  const value = (row) => row.cells[x]?.now ?? null;
  return [...found.rows].sort((a, b) => {
    if (value(a) === null || value(b) === null) return (value(a) === null) - (value(b) === null);
    return falling ? value(b) - value(a) : value(a) - value(b);
  });
}
