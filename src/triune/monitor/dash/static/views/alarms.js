// What the rules found, with the curve that shows it.

import { following, get } from "../api.js";
import { chart } from "../chart.js";
import { h, put, renewed, table } from "../dom.js";
import { number } from "../format.js";
import { address, failure, go } from "../main.js";
import { plain } from "../plain.js";

export async function show(root, { run }) {
  const problem = h("div", {});
  const holding = h("div", {});
  const past = h("div", {});
  const notes = h("div", {});
  const rules = h("details", {});
  const cards = new Map(); // what tells an alarm from others -> {element, update}
  put(root, h("h1", {}, "Alarms"), problem, holding, notes, past, rules);

  const changed = following(async () => {
    const found = await get("/api/alarms", { run });
    const now = found.alarms.filter((alarm) => alarm.over === null);
    const over = found.alarms.filter((alarm) => alarm.over !== null);
    const lines = await Promise.all(now.map((alarm) => curves(run, alarm)));
    put(problem);
    const elements = now.length ? now.map((alarm, n) => card(alarm, lines[n])) : [h("p", { class: "note" }, "No alarm holds.")];
    if (!now.length || elements.length !== holding.children.length || elements.some((element, n) => holding.children[n] !== element)) holding.replaceChildren(...elements);
    renewed(past, over, () => over.length > 0 && [h("h2", {}, "Over"), h("div", { class: "scroll" }, table([
      { title: "rule", cell: (alarm) => alarm.rule },
      { title: "where", cell: (alarm) => plain(alarm.where) },
      { title: "raised at step", number: true, cell: (alarm) => number(alarm.step) },
      { title: "over at step", number: true, cell: (alarm) => number(alarm.over) },
      { title: "said", cell: (alarm) => plain(alarm.message) },
    ], over, { caption: "Alarms that are over" }))]);
    renewed(notes, found.notes, () => found.notes.map((note) => h("p", { class: "note" }, h("strong", {}, note.rule), ": ", plain(note.message))));
    if (!rules.children.length) put(rules, h("summary", {}, "What the rules watch"), h("dl", {}, found.rules.map((rule) => [h("dt", {}, h("strong", {}, rule.name)), h("dd", {}, rule.watches)])));
  }, (error) => put(problem, failure(error)));

  /** Drawn once; afterwards only its curve goes on. */
  function card(alarm, lines) {
    const key = JSON.stringify(alarm);
    const known = cards.get(key);
    if (known) {
      known.chart.hidden = !lines.length;
      known.chart.update(lines);
      return known.element;
    }
    const drawn = chart({ title: alarm.metric, curves: lines, pick: (step) => go("rollouts", { run, source: alarm.source, phase: alarm.phase, step }) });
    drawn.hidden = !lines.length;
    const element = h("section", { class: `note ${alarm.level === "stop" ? "bad" : "warn"}`, "aria-label": `${alarm.rule}, ${alarm.where}` },
      h("h2", {}, `${alarm.level === "stop" ? "Stop" : "Warning"}: ${alarm.rule}, `, plain(alarm.where)),
      h("p", {}, plain(alarm.message)),
      h("p", {}, `Since step ${number(alarm.since)}, raised at step ${number(alarm.step)}`,
        alarm.value !== null && ` at ${number(alarm.value)}, bound ${number(alarm.bound)}`, ". ",
        h("a", { href: address("rollouts", { run, source: alarm.source, phase: alarm.phase, step: alarm.step }), "data-item": true }, "Rollouts of that step")),
      h("div", { class: "multiples" }, drawn));
    cards.set(key, { element, chart: drawn });
    return element;
  }

  await changed();
  return { changed };
}

async function curves(run, alarm) {
  const where = [alarm.source && `source=${alarm.source}`, alarm.component && `component=${alarm.component}`].filter(Boolean);
  const found = await get("/api/series", { run, name: alarm.metric, phase: alarm.phase, by: "", where });
  return found.curves.map((curve) => ({ label: alarm.metric, ...curve }));
}
