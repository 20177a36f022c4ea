// What the rules found, with the curve that shows it.

import { get } from "../api.js";
import { chart } from "../chart.js";
import { h, put, table } from "../dom.js";
import { number } from "../format.js";
import { address, go } from "../main.js";

export async function show(root, { run }) {
  const holding = h("div", {});
  const past = h("div", {});
  const notes = h("div", {});
  const rules = h("details", {});
  put(root, h("h1", {}, "Alarms"), holding, notes, past, rules);
  let drawn = "";

  async function changed() {
    const found = await get("/api/alarms", { run });
    const now = found.alarms.filter((alarm) => alarm.over === null);
    const over = found.alarms.filter((alarm) => alarm.over !== null);
    const same = JSON.stringify(found.alarms) === drawn;
    drawn = JSON.stringify(found.alarms);
    if (!same) put(holding, now.length ? await Promise.all(now.map(card)) : h("p", { class: "note" }, "No alarm holds."));
    put(past, over.length > 0 && [h("h2", {}, "Over"), h("div", { class: "scroll" }, table([
      { title: "rule", cell: (alarm) => alarm.rule },
      { title: "where", cell: (alarm) => alarm.where },
      { title: "raised at step", number: true, cell: (alarm) => number(alarm.step) },
      { title: "over at step", number: true, cell: (alarm) => number(alarm.over) },
      { title: "said", cell: (alarm) => alarm.message },
    ], over, { caption: "Alarms that are over" }))]);
    put(notes, found.notes.map((note) => h("p", { class: "note" }, h("strong", {}, note.rule), `: ${note.message}`)));
    if (!rules.children.length) put(rules, h("summary", {}, "What the rules watch"), h("dl", {}, found.rules.map((rule) => [h("dt", {}, h("strong", {}, rule.name)), h("dd", {}, rule.watches)])));
  }

  async function card(alarm) {
    const where = [alarm.source && `source=${alarm.source}`, alarm.component && `component=${alarm.component}`].filter(Boolean);
    const { curves } = await get("/api/series", { run, name: alarm.metric, phase: alarm.phase, by: "", where });
    return h("section", { class: `note ${alarm.level === "stop" ? "bad" : "warn"}`, "aria-label": `${alarm.rule}, ${alarm.where}` },
      h("h2", {}, `${alarm.level === "stop" ? "Stop" : "Warning"}: ${alarm.rule}, ${alarm.where}`),
      h("p", {}, alarm.message),
      h("p", {}, `Since step ${number(alarm.since)}, raised at step ${number(alarm.step)}`,
        alarm.value !== null && ` at ${number(alarm.value)}, bound ${number(alarm.bound)}`, ". ",
        h("a", { href: address("rollouts", { run, source: alarm.source, phase: alarm.phase, step: alarm.step }), "data-item": true }, "Rollouts of that step")),
      curves.length > 0 && h("div", { class: "multiples" }, chart({
        title: alarm.metric, curves: curves.map((curve) => ({ label: alarm.metric, ...curve })),
        pick: (step) => go("rollouts", { run, source: alarm.source, phase: alarm.phase, step }),
      })));
  }

  await changed();
  return { changed };
}
