// The shell: which view of which run is shown is in the address (`#/overview?run=NAME&...`), so that it can be kept,
// shared and gone back to. A view is a module with `title`, and `show(root, state)` that draws into `root` and may
// return {changed(stamp), close()}.

import { get, watch } from "./api.js";
import { drawn } from "./chart.js";
import { append, h, put } from "./dom.js";

const VIEWS = [
  { name: "runs", title: "Runs", key: "1", all: true },
  { name: "compare", title: "Compare", key: "2", all: true },
  { name: "overview", title: "Overview", key: "3" },
  { name: "matrix", title: "Matrix", key: "4" },
  { name: "rollouts", title: "Rollouts", key: "5" },
  { name: "health", title: "Health", key: "6" },
  { name: "data", title: "Data", key: "7" },
  { name: "alarms", title: "Alarms", key: "8" },
];
const KEYS = [
  ["1 … 8", "a view"], ["/", "search"], ["j, k", "next and previous"], ["t", "light or dark"], ["?", "these keys"], ["Esc", "close, or back to the list"], ["g, s", "of a rollout: its group, and its sample through the steps"],
  ["← →, Home, End", "along a curve, where Enter shows its rollouts, and along tokens; with ↑ ↓ through the matrix"], ["↑ ↓", "between the curves of a chart"],
  ["+, −, 0", "closer, wider, and the whole run, in a chart; so does dragging"],
];
const TYPED = "input:not([type=checkbox], [type=range]), select, textarea, dialog"; // where a letter is a letter

const content = document.getElementById("content");
const chooser = document.getElementById("run");
const stateLine = document.getElementById("state");
let current = null;
let stop = () => {};
let watched = null;
const GONE = "gone";
let turn = 0;
let file = null; // of the run that is shown: another one has come in its place where it changes

/** The state in the address: {view, run, ...parameters}. */
export function state() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const found = Object.fromEntries(new URLSearchParams(query));
  const view = VIEWS.find((one) => one.name === path) ? path : "runs";
  return { ...found, view };
}

/** The address of a view; parameters that are empty are left out. */
export function address(view, parameters) {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value !== null && value !== undefined && value !== "") made.set(name, value);
  return `#/${view}?${made}`;
}

/** Goes to a view; `replace` keeps the history short while a filter is being typed. */
export function go(view, parameters, replace = false) {
  const to = address(view, parameters);
  if (replace) {
    history.replaceState(null, "", to);
    return render();
  }
  location.hash = to;
  return undefined;
}

/** Notes parameters of the shown view in the address, without drawing it anew; empty ones are taken out. */
export function remember(parameters) {
  const { view, ...now } = state();
  history.replaceState(null, "", address(view, { ...now, ...parameters }));
  navigation(state());
}

async function render() {
  const mine = ++turn;
  const now = state();
  const view = VIEWS.find((one) => one.name === now.view);
  if (!view.all && !now.run) return go("runs", {}, true);
  delete content.dataset.ready;
  navigation(now);
  follow(view.all ? "" : now.run);
  const root = h("div", { "data-view": view.name });
  try {
    const module = await import(`./views/${view.name}.js`);
    if (mine !== turn) return undefined;
    current?.close?.();
    current = null;
    document.title = `${view.title}${now.run ? ` · ${now.run}` : ""} · Triune`;
    put(content, root);
    const shown = await module.show(root, now);
    if (mine !== turn) shown?.close?.();
    else current = shown || null;
  } catch (error) {
    if (mine === turn) put(content, h("h1", {}, view.title), failure(error));
  }
  await drawn();
  if (mine === turn) content.dataset.ready = now.view; // what a test, or a script, waits for
  return undefined;
}

/** An error as a note. */
export function failure(error) {
  return h("p", { class: "note bad", role: "alert" }, error.message || String(error));
}

function navigation(now) {
  const bar = document.getElementById("views");
  if (!bar.children.length) append(bar, VIEWS.map((view) => h("a", {}, view.title)));
  VIEWS.forEach((view, n) => {
    const link = bar.children[n];
    link.href = target(view, now);
    if (view.name === now.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  if (now.run && chooser.value !== now.run) {
    if (![...chooser.options].some((option) => option.value === now.run)) append(chooser, h("option", { value: now.run }, now.run));
    chooser.value = now.run;
  }
}

/** Where a view leads from here: the run stays the same, and so do the runs that were selected. */
function target(view, now) {
  return address(view.name, view.all ? { runs: now.runs } : { run: now.run || chooser.value });
}

function follow(run) {
  if (watched === run) return;
  stop();
  watched = run;
  file = null;
  stateLine.className = "state";
  put(stateLine);
  stop = watch(run, (change) => {
    if (change === null) {
      stateLine.className = "state lost";
      put(stateLine, "server lost");
      return;
    }
    stateLine.className = change.live ? "state live" : change.error ? "state lost" : "state";
    put(stateLine, run ? (change.live ? "live" : change.error ? "gone" : "not running") : "");
    if (change.runs) offer(Object.keys(change.runs));
    const before = file;
    file = change.error ? GONE : change.file;
    if (change.error) {
      if (current && before !== GONE) content.prepend(failure(new Error(change.error)));
      return undefined;
    }
    if (before && file !== before) return render();
    return current?.changed?.(change);
  });
}

/** Puts these runs up for choice; a list that is open is left alone while they stay the same. */
function offer(names) {
  if (names.length === chooser.options.length && names.every((name, n) => chooser.options[n].value === name)) return;
  const chosen = state().run || chooser.value;
  put(chooser, names.map((name) => h("option", { value: name }, name)));
  if (names.includes(chosen)) chooser.value = chosen;
  navigation(state());
}

function themed() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  put(document.getElementById("theme"), dark ? "Light" : "Dark");
  return dark;
}

function turnTheme() {
  const next = themed() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("theme", next);
  themed();
}

function help() {
  const dialog = document.getElementById("keys");
  put(dialog, h("h2", { id: "keys-title" }, "Keys"), h("table", {}, h("tbody", {}, KEYS.map(([key, does]) =>
    h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, key)), h("td", {}, does))))),
  h("form", { method: "dialog" }, h("button", {}, "Close")));
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest(TYPED)) return;
  const view = VIEWS.find((one) => one.key === event.key);
  if (view) location.hash = target(view, state());
  else if (event.key === "t") turnTheme();
  else if (event.key === "?") help();
  else if (event.key === "/") {
    const search = content.querySelector("input[type=search]");
    if (!search) return;
    event.preventDefault();
    search.focus();
  } else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
});

/** Moves the focus along what a view marks with `data-item`. */
function step(by) {
  const items = [...content.querySelectorAll("[data-item]")];
  if (!items.length) return;
  const here = items.findIndex((item) => item.contains(document.activeElement));
  const item = items[Math.min(Math.max(here < 0 ? (by > 0 ? 0 : items.length - 1) : here + by, 0), items.length - 1)];
  (item.matches("a, button, [tabindex]") ? item : item.querySelector("a, button, [tabindex]"))?.focus();
}

chooser.addEventListener("change", () => {
  const now = state();
  const view = VIEWS.find((one) => one.name === now.view);
  go(view.all ? "overview" : now.view, { run: chooser.value });
});
document.getElementById("theme").addEventListener("click", turnTheme);
document.getElementById("help").addEventListener("click", help);
window.addEventListener("hashchange", render);
const kept = localStorage.getItem("theme");
if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
themed();
await get("/api/runs").then(({ runs }) => offer(runs.map((run) => run.name)), () => {});
render();
