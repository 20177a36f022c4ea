// Line charts in SVG: curves with bands, a cursor for mouse and keyboard, and the numbers in words for those who
// cannot see them.

import { h, put, s } from "./dom.js";
import { colour, number } from "./format.js";

const WIDTH = 320;
const MARGIN = { left: 38, right: 8, top: 6, bottom: 18 };

/**
 * A chart. `curves`: [{label, step: [...], mean: [...], low?: [...], high?: [...], nonfinite?: [...], kind?: number}], null
 * where a value is missing. `unit` shows 0 to 1 whatever the values are. `pick(step)` is called for a click or Enter.
 * The element has `update(curves)`, which redraws in place.
 */
export function chart({ title, curves, height = 130, unit = false, legend = true, level = 3, pick = null, note = "" }) {
  const reading = h("div", { class: "chart-reading", "aria-live": "off" });
  const holder = h("div", {});
  const keys = h("ul", { class: "legend" });
  const element = h("figure", { class: "chart card", style: null }, h(`h${level}`, {}, title),
    note && h("p", { class: "dim" }, note), holder, reading, legend ? keys : null);
  let shown = [];
  let at = null;
  let frame = null;

  function update(next) {
    shown = next.map((curve, n) => ({ kind: n, ...curve }));
    frame = layout(shown, height, unit);
    const labelled = summary(title, shown);
    const svg = draw(shown, frame, height, labelled, pick !== null);
    svg.addEventListener("pointermove", (event) => move(nearestStep(frame, shown, place(svg, event))));
    svg.addEventListener("pointerleave", () => move(null));
    if (pick) svg.addEventListener("click", (event) => pick(nearestStep(frame, shown, place(svg, event))));
    svg.addEventListener("keydown", keyed);
    const focused = holder.firstChild !== null && document.activeElement === holder.firstChild;
    put(holder, svg);
    if (focused) svg.focus();
    put(keys, shown.length > 1 ? shown.map((curve) => h("li", {}, h("span", { class: `swatch ${colour(curve.kind)}` }), curve.label)) : []);
    move(at);
  }

  function keyed(event) {
    const steps = allSteps(shown);
    if (!steps.length) return;
    const here = at === null ? steps.length - 1 : steps.indexOf(at);
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: steps.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      reading.setAttribute("aria-live", "polite");
      move(steps[Math.min(Math.max(to, 0), steps.length - 1)]);
    } else if (event.key === "Enter" && pick && at !== null) pick(at);
  }

  function move(step) {
    at = step;
    const svg = holder.firstChild;
    svg.querySelector(".cursor")?.remove();
    if (step === null || !frame) {
      put(reading, last(shown));
      return;
    }
    const x = frame.x(step);
    svg.append(s("line", { class: "cursor", x1: x, x2: x, y1: MARGIN.top, y2: height - MARGIN.bottom }));
    const values = shown.map((curve) => [curve.label, curve.mean[curve.step.indexOf(step)]]).filter(([, value]) => value !== undefined);
    put(reading, `step ${number(step)}: ` + values.map(([label, value]) => (shown.length > 1 ? `${label} ` : "") + number(value)).join(", "));
  }

  update(curves);
  element.update = update;
  return element;
}

function allSteps(curves) {
  return [...new Set(curves.flatMap((curve) => curve.step))].sort((a, b) => a - b);
}

function last(curves) {
  const ends = curves.filter((curve) => curve.step.length).map((curve) => (curves.length > 1 ? `${curve.label} ` : "") + number(curve.mean.at(-1)));
  return ends.length ? ends.join(", ") : "nothing yet";
}

function summary(title, curves) {
  const words = curves.filter((curve) => curve.step.length).map((curve) => {
    const known = curve.mean.filter((value) => value !== null);
    return `${curve.label}: ${number(known[0])} at step ${number(curve.step[0])}, ${number(known.at(-1))} at step ${number(curve.step.at(-1))}`;
  });
  return `${title}. ${words.join("; ") || "no values"}`;
}

function layout(curves, height, unit) {
  const steps = curves.flatMap((curve) => curve.step);
  const values = curves.flatMap((curve) => [...curve.mean, ...(curve.low || []), ...(curve.high || [])]).filter((value) => value !== null && value !== undefined);
  let [left, right] = extent(steps, [0, 1]);
  let [bottom, top] = unit ? [0, 1] : extent(values, [0, 1]);
  if (unit) [bottom, top] = [Math.min(0, ...values), Math.max(1, ...values)];
  if (left === right) [left, right] = [left - 1, right + 1];
  if (bottom === top) [bottom, top] = bottom === 0 ? [-1, 1] : [bottom - Math.abs(bottom) / 10, top + Math.abs(top) / 10];
  return {
    left, right, bottom, top,
    x: (step) => MARGIN.left + ((step - left) / (right - left)) * (WIDTH - MARGIN.left - MARGIN.right),
    y: (value) => MARGIN.top + ((top - value) / (top - bottom)) * (height - MARGIN.top - MARGIN.bottom),
  };
}

function extent(values, otherwise) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? otherwise : [low, high];
}

function draw(curves, frame, height, label, picks) {
  const bottom = height - MARGIN.bottom;
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: picks ? "button" : "img", "aria-label": label, tabindex: "0" });
  for (const value of [frame.bottom, (frame.bottom + frame.top) / 2, frame.top]) {
    const y = frame.y(value);
    svg.append(s("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y, y2: y }));
    svg.append(s("text", { x: MARGIN.left - 4, y: y + 3, "text-anchor": "end" }, number(value, 2)));
  }
  svg.append(s("text", { x: MARGIN.left, y: height - 4 }, number(frame.left)));
  svg.append(s("text", { x: WIDTH - MARGIN.right, y: height - 4, "text-anchor": "end" }, number(frame.right)));
  svg.append(s("line", { class: "axis", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: bottom, y2: bottom }));
  for (const curve of curves) if (curve.low) svg.append(s("path", { class: `band ${colour(curve.kind)}`, d: band(curve, frame) }));
  for (const curve of curves) {
    svg.append(s("path", { class: `curve ${colour(curve.kind)}`, d: path(curve.step, curve.mean, frame) }));
    if (curve.step.length === 1 && curve.mean[0] !== null) svg.append(s("circle", { class: `dot ${colour(curve.kind)}`, cx: frame.x(curve.step[0]), cy: frame.y(curve.mean[0]), r: 2.5 }));
    (curve.nonfinite || []).forEach((count, n) => {
      if (count) svg.append(s("path", { class: "broken", d: `M${frame.x(curve.step[n]) - 3},${bottom}l3,-6l3,6z` }, s("title", {}, `not finite at step ${curve.step[n]}`)));
    });
  }
  return svg;
}

function path(steps, values, frame) {
  let d = "";
  let pen = "M";
  steps.forEach((step, n) => {
    if (values[n] === null || values[n] === undefined) pen = "M";
    else {
      d += `${pen}${frame.x(step).toFixed(1)},${frame.y(values[n]).toFixed(1)}`;
      pen = "L";
    }
  });
  return d;
}

function band(curve, frame) {
  const known = curve.step.map((step, n) => [step, curve.low[n], curve.high[n]]).filter(([, low, high]) => low !== null && high !== null);
  if (!known.length) return "";
  const there = known.map(([step, , high]) => `${frame.x(step).toFixed(1)},${frame.y(high).toFixed(1)}`);
  const back = known.reverse().map(([step, low]) => `${frame.x(step).toFixed(1)},${frame.y(low).toFixed(1)}`);
  return `M${[...there, ...back].join("L")}Z`;
}

function place(svg, event) {
  const box = svg.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * WIDTH;
}

function nearestStep(frame, curves, x) {
  let best = null;
  let distance = Infinity;
  for (const curve of curves) {
    for (const step of curve.step) {
      const away = Math.abs(frame.x(step) - x);
      if (away < distance) [best, distance] = [step, away];
    }
  }
  return best;
}
