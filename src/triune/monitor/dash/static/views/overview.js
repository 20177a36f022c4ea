// One run on one screen: alarms first, then reward and held-out accuracy of every source.

import { following, get } from "../api.js";
import { chart } from "../chart.js";
import { field, h, put } from "../dom.js";
import { ago, change, duration, number } from "../format.js";
import { address, failure, go, remember } from "../main.js";
import { around, drawn, seconds, settings, stepAt } from "../settings.js";

const KINDS = { reward: { label: "reward", kind: 0 }, held_out: { label: "held-out", kind: 1 } };
const SIZES = { large: { height: 130 }, medium: { height: 80 }, small: { height: 56, compact: true } };
const HELD_OUT = ["eval-after", "eval", "eval-before"]; // of a step in two phases the first counts
const MOST_ALARMS = 4;
const POINTS = 150;
const AGE_MS = 5000;
const MEAN = "mean over sources";

export async function show(root, state) {
  const { run } = state;
  const panels = new Map(); // source -> {element, said}
  let options = drawn(state);
  let zoom = state.since && state.until ? [Number(state.since), Number(state.until)] : null; // in steps
  let size = state.size || "";
  let filter = state.text || "";
  let found = null;

  const problem = h("div", {});
  const alarms = h("section", { "aria-label": "Alarms" });
  const facts = h("dl", { class: "facts" });
  const grid = h("div", { class: "multiples" });
  const search = h("input", { type: "search", value: filter, placeholder: "source", size: "14", oninput: typed });
  const sizes = h("select", { onchange: (event) => { size = event.target.value; remember({ size }); draw(); } },
    [["", "to fit"], ...Object.keys(SIZES).map((one) => [one, one])].map(([value, words]) => h("option", { value, selected: value === size }, words)));
  const whole = h("button", { type: "button", onclick: () => zoomed(null) }, "Whole run");
  put(root, h("h1", {}, `Overview of ${run}`), problem, alarms, facts,
    h("div", { class: "row" }, field("Find", search), field("Size", sizes), settings(state, (next) => { options = next; restyle(); }), whole,
      h("ul", { class: "legend" }, Object.values(KINDS).map((one) => h("li", {}, h("span", { class: `swatch k${one.kind}` }), one.label)))),
    grid);

  const refresh = following(async () => {
    found = await get("/api/overview", { run, ...around(zoom, POINTS) });
    put(problem);
    draw();
  }, (error) => put(problem, failure(error)));

  function draw() {
    if (!found) return;
    whole.hidden = !zoom;
    tellAlarms();
    tellFacts();
    const chosen = size || (found.sources.length <= 12 ? "large" : found.sources.length <= 30 ? "medium" : "small");
    if (grid.dataset.size !== chosen) {
      grid.dataset.size = chosen;
      panels.clear();
      grid.replaceChildren();
    }
    const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = found.sources.filter((one) => words.every((word) => `${one.name} ${one.task}`.toLowerCase().includes(word)));
    const alarmed = new Set(found.alarms.map((alarm) => alarm.source));
    const elements = [{ name: "", ...found.mean }, ...shown].map((one) => {
      const element = panel(one, chosen);
      element.classList.toggle("alarmed", one.name !== "" && alarmed.has(one.name));
      return element;
    });
    if (elements.length !== grid.children.length || elements.some((element, n) => grid.children[n] !== element)) grid.replaceChildren(...elements);
  }

  function panel(one, chosen) {
    const curves = Object.entries(KINDS).filter(([key]) => one[key].step.length).map(([key, look]) => ({ ...look, ...one[key], time: seconds(found.clock, one[key].step) }));
    const said = JSON.stringify(curves);
    const known = panels.get(one.name);
    if (known?.said === said) return known.element;
    if (known) known.element.update(curves);
    const element = known?.element ?? chart({
      title: one.name || MEAN, curves, unit: true, legend: false, ...SIZES[chosen], options: { ...options, zoom: onAxis() },
      pick: (step, curve) => open(one.name, step, curve), zoomed: (range) => zoomed(range && (options.time ? range.map((at) => stepAt(found.clock, at)) : range)),
    });
    panels.set(one.name, { element, said });
    return element;
  }

  function onAxis() {
    return zoom && options.time ? seconds(found.clock, zoom) : zoom;
  }

  function restyle() {
    for (const { element } of panels.values()) element.set({ ...options, zoom: onAxis() });
  }

  function zoomed(range) {
    zoom = range;
    remember({ since: range ? Math.floor(range[0]) : "", until: range ? Math.ceil(range[1]) : "" });
    restyle();
    refresh();
  }

  function typed(event) {
    filter = event.target.value;
    remember({ text: filter });
    draw();
  }

  /** The rollouts that were kept nearest to a step. */
  function open(source, step, curve) {
    let phase = "train";
    if (curve.kind === KINDS.held_out.kind) phase = HELD_OUT.find((one) => found.kept[one].includes(step)) || HELD_OUT.find((one) => found.kept[one].length) || "eval";
    const kept = found.kept[phase];
    const nearest = kept.length ? kept.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best)) : step;
    go("rollouts", { run, source, phase, step: nearest });
  }

  function tellAlarms() {
    const said = JSON.stringify(found.alarms);
    if (alarms.dataset.said === said) return;
    alarms.dataset.said = said;
    const order = [...found.alarms].sort((a, b) => (b.level === "stop") - (a.level === "stop") || b.step - a.step);
    const more = order.length - MOST_ALARMS;
    put(alarms, order.length === 0 ? h("p", { class: "dim" }, "No alarm holds.") : order.slice(0, MOST_ALARMS).map((alarm) =>
      h("p", { class: `note ${alarm.level === "stop" ? "bad" : "warn"}` },
        h("a", { href: address("alarms", { run }), "data-item": true }, `${alarm.rule} (${alarm.where})`), ` since step ${number(alarm.step)}: ${alarm.message}`)),
    more > 0 && h("p", {}, h("a", { href: address("alarms", { run }) }, `and ${more} more`)));
  }

  function tellFacts() {
    const last = (key) => found.mean[key].mean.at(-1);
    const gain = last("held_out") - found.mean.held_out.mean[0];
    const rows = [
      ["reward", number(last("reward")), "mean over sources"],
      ["held-out accuracy", number(last("held_out")), found.mean.held_out.step.length > 1 && `${change(gain)} since step ${number(found.mean.held_out.step[0])}`],
      ["step", number(found.step), found.total_steps && [`of ${number(found.total_steps)} `, h("progress", { max: found.total_steps, value: found.step, "aria-label": "steps done" })]],
      ["pace", found.pace === null ? "–" : `${duration(found.pace)} a step`],
      found.live && found.left > 0 ? ["time left", duration(found.left)] : ["last written", found.updated ? ago(found.updated) : "–"],
    ];
    put(facts, rows.map(([name, value, more]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("strong", {}, value), more && h("span", { class: "dim" }, " ", more)))));
  }

  await refresh();
  const aging = setInterval(() => found && tellFacts(), AGE_MS);
  return {
    changed: (news) => (found && news.stamp === found.stamp && news.live === found.live ? undefined : refresh()),
    close: () => clearInterval(aging),
  };
}
