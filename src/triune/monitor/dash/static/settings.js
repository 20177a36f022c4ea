// How curves are drawn: the same controls wherever there are charts, kept in the address.

import { field, h } from "./dom.js";
import { remember } from "./main.js";

/** What the address says: {log, smooth, time}. */
export function drawn(state) {
  const smooth = Number(state.smooth);
  return { log: state.log === "1", smooth: smooth > 0 && smooth < 1 ? smooth : 0, time: state.axis === "time" };
}

/** The controls; `changed(options)` is told of every change. */
export function settings(state, changed, { time = true } = {}) {
  const now = drawn(state);
  function take(next) {
    Object.assign(now, next);
    remember({ log: now.log ? "1" : "", smooth: now.smooth || "", axis: now.time ? "time" : "" });
    changed({ ...now });
  }
  return [
    field("Smoothing", h("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: String(now.smooth), oninput: (event) => take({ smooth: Number(event.target.value) }) })),
    field("Log scale", h("input", { type: "checkbox", checked: now.log, onchange: (event) => take({ log: event.target.checked }) })),
    time && field("Axis", h("select", { onchange: (event) => take({ time: event.target.value === "time" }) },
      h("option", { value: "step" }, "steps"), h("option", { value: "time", selected: now.time }, "time"))),
  ];
}

/** Seconds since the start at these steps, by a clock {step, seconds}; between its knots on a straight line. */
export function seconds(clock, steps) {
  let n = 0;
  return steps.map((step) => {
    while (n + 1 < clock.step.length && clock.step[n + 1] <= step) n += 1;
    return between(clock.step, clock.seconds, n, step);
  });
}

/** The step at this time. */
export function stepAt(clock, time) {
  let n = 0;
  while (n + 1 < clock.seconds.length && clock.seconds[n + 1] <= time) n += 1;
  return between(clock.seconds, clock.step, n, time);
}

function between(from, to, n, x) {
  if (n + 1 >= from.length || x <= from[n]) return to[n] ?? 0;
  return to[n] + ((to[n + 1] - to[n]) * (x - from[n])) / (from[n + 1] - from[n]);
}

/** What to ask for to show these steps: one width more on either side, and points for it; {} for the whole run. */
export function around(zoom, points) {
  return zoom ? { since: Math.floor(2 * zoom[0] - zoom[1]), until: Math.ceil(2 * zoom[1] - zoom[0]), points: 2 * points } : { points };
}
