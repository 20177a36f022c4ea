// Line charts in SVG: curves with bands, a cursor for mouse and keyboard, a zoom, and the numbers in words for those who
// cannot see them. A chart is drawn when it is on the screen, a few per frame, and again only when something changed.

import { h, put, s } from "./dom.js";
import { colour, duration, number } from "./format.js";

const ROOMY = { left: 46, right: 8, top: 6, bottom: 18 };
const TIGHT = { left: 2, right: 2, top: 3, bottom: 3 };
const FRAME_MS = 10; // of a frame's 16 that drawing may take
const DRAG = 6; // pixels from which a click is a selection

/**
 * A chart. `curves`: [{label, step: [...], mean: [...], low?: [...], high?: [...], nonfinite?: [...], kind?: number, time?:
 * [seconds, ...]}], null where a value is missing. `unit` shows 0 to 1 whatever the values are; `compact` leaves out what
 * does not fit into a thumbnail. `pick(step, curve)` is called for a click or Enter, `zoomed([low, high] or null)` where
 * the reader chose a range of the axis. `options`: {log, smooth: 0 to 1, time: seconds in place of steps, zoom}.
 * `say(value)`: a value in words, for shares. The element has `update(curves)` and `set(options)`, which redraw in place.
 */
export function chart({ title, curves, height = 130, unit = false, legend = true, level = 3, pick = null, zoomed = null, note = "", compact = false, say: spoken = number, options = {} }) {
  const reading = h("div", { class: "chart-reading", "aria-live": "off" });
  const svg = s("svg", { height, role: pick ? "button" : "img", tabindex: "0" });
  const holder = h("div", { class: "chart-holder" }, svg);
  const keys = h("ul", { class: "legend" });
  const whole = h("button", { type: "button", class: "chart-whole", hidden: true, onclick: () => zoom(null) }, "whole run");
  const element = h("figure", { class: `chart card${compact ? " compact" : ""}` }, h(`h${level}`, { title: compact ? title : null }, title),
    note && h("p", { class: "dim" }, note), whole, holder, reading, legend ? keys : null);
  const margin = compact ? TIGHT : ROOMY;
  let given = {};
  let shown = [];
  let stops = null; // where the cursor can be
  let frame = null;
  let width = 0;
  let at = null; // {x, n}: the cursor, and the curve that it is on
  let from = null; // where a drag began

  function update(next) {
    shown = next.map((curve, n) => ({ kind: n, ...curve }));
    changed();
    if (legend) put(keys, shown.length > 1 ? shown.map((curve) => h("li", {}, h("span", { class: `swatch ${colour(curve.kind)}` }), curve.label)) : []);
  }

  function set(next) {
    given = { ...given, ...next };
    whole.hidden = !given.zoom;
    changed();
  }

  function changed() {
    stops = null;
    for (const curve of shown) curve.x = given.time && curve.time ? curve.time : curve.step;
    svg.setAttribute("aria-label", summary(title, shown, pick !== null, spoken));
    say();
    drawSoon(element);
  }

  element.draw = () => {
    if (!width) return;
    frame = layout(shown, { width, height, margin, unit, ...given });
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    put(svg, content(shown, frame, { compact, spoken, ...given }));
    cursor();
  };
  element.resize = (to) => {
    if (Math.abs(to - width) < 2) return;
    width = to;
    drawSoon(element);
  };

  function reach() {
    stops ??= [...new Set(shown.flatMap((curve) => curve.x))].sort((a, b) => a - b);
    return given.zoom ? stops.filter((x) => x >= given.zoom[0] && x <= given.zoom[1]) : stops;
  }

  function move(x, n = at?.n ?? 0) {
    at = x === null ? null : { x, n: Math.min(Math.max(n, 0), Math.max(shown.length - 1, 0)) };
    cursor();
    say();
  }

  function cursor() {
    svg.querySelector(".cursor")?.remove();
    if (!at || !frame || at.x < frame.left || at.x > frame.right) return;
    const x = frame.x(at.x);
    svg.append(s("line", { class: "cursor", x1: x, x2: x, y1: margin.top, y2: height - margin.bottom }));
  }

  function say() {
    const many = shown.length > 1;
    const value = (curve, n) => (many ? `${curve.label} ` : "") + spoken(curve.mean[n]);
    if (!at) {
      const ends = shown.filter((curve) => curve.x.length);
      if (compact) put(reading, ends.map((curve, n) => [n ? " " : "", h("span", { class: `value ${colour(curve.kind)}`, title: curve.label }, spoken(curve.mean.at(-1)))]));
      else put(reading, ends.map((curve) => value(curve, curve.x.length - 1)).join(", ") || "nothing yet");
      return;
    }
    const held = shown.map((curve, n) => [curve, before(curve.x, at.x), n]).filter(([, index]) => index >= 0);
    const exact = held.find(([curve, index]) => curve.x[index] === at.x);
    const where = (given.time ? `${duration(at.x)}, ` : "") + (exact ? `step ${number(exact[0].step[exact[1]])}` : "");
    put(reading, `${where}: `, held.map(([curve, index, n], place) => [place ? ", " : "",
      h(many && at.n === n && document.activeElement === svg ? "strong" : "span", {}, value(curve, index))]));
  }

  function chosen(y = null) {
    const held = shown.map((curve, n) => ({ curve, n, index: before(curve.x, at.x) })).filter(({ curve, index }) => index >= 0 && curve.x[index] === at.x);
    if (y === null) return held.find(({ n }) => n === at.n) || held[0];
    const away = ({ curve, index }) => (curve.mean[index] === null ? Infinity : Math.abs(frame.y(curve.mean[index]) - y));
    return held.sort((a, b) => away(a) - away(b))[0];
  }

  function choose(y) {
    const one = at && pick && chosen(y);
    if (one) pick(one.curve.step[one.index], one.curve);
  }

  function zoom(range) {
    set({ zoom: range });
    zoomed?.(range);
  }

  function nearer(factor) {
    if (!frame) return;
    const [low, high] = given.zoom || [frame.left, frame.right];
    const middle = at ? at.x : (low + high) / 2;
    const range = [middle - (middle - low) * factor, middle + (high - middle) * factor];
    const ends = stops ?? (reach(), stops);
    if (range[0] <= ends[0] && range[1] >= ends.at(-1)) zoom(null);
    else if (ends.some((x) => x >= range[0] && x <= range[1])) zoom(range);
  }

  svg.addEventListener("keydown", (event) => {
    const can = reach();
    if (!can.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const here = at === null ? can.length : before(can, at.x);
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: can.length - 1 }[event.key];
    const other = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    reading.setAttribute("aria-live", "polite");
    if (to !== undefined) move(can[Math.min(Math.max(to, 0), can.length - 1)]);
    else if (other !== undefined && at) move(at.x, at.n + other);
    else if (event.key === "+" || event.key === "=") nearer(0.5);
    else if (event.key === "-") nearer(2);
    else if (event.key === "0" && given.zoom) zoom(null);
    else if (event.key === "Enter") choose(null);
    else return;
    event.preventDefault();
  });
  svg.addEventListener("pointerdown", (event) => {
    if (event.button || !frame) return;
    from = place(svg, event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!frame) return;
    const { x } = place(svg, event);
    const can = reach();
    if (can.length) move(nearest(can, frame.back(x)));
    svg.querySelector(".selection")?.remove();
    if (from && Math.abs(x - from.x) > DRAG) {
      svg.append(s("rect", { class: "selection", x: Math.min(x, from.x), width: Math.abs(x - from.x), y: margin.top, height: height - margin.top - margin.bottom }));
    }
  });
  svg.addEventListener("pointerup", (event) => {
    if (!from) return;
    const to = place(svg, event);
    const began = from;
    from = null;
    svg.querySelector(".selection")?.remove();
    if (Math.abs(to.x - began.x) <= DRAG) choose(to.y);
    else {
      const range = [frame.back(Math.min(began.x, to.x)), frame.back(Math.max(began.x, to.x))];
      if (reach().some((x) => x >= range[0] && x <= range[1])) zoom(range);
    }
  });
  svg.addEventListener("pointercancel", () => { from = null; });
  svg.addEventListener("pointerleave", () => { if (document.activeElement !== svg) move(null); });
  svg.addEventListener("focus", say);
  svg.addEventListener("blur", () => {
    reading.setAttribute("aria-live", "off");
    move(null);
  });

  holder.chart = element;
  seen.observe(holder);
  sized.observe(holder);
  element.update = update;
  element.set = set;
  set(options);
  update(curves);
  return element;
}

// What is on the screen is drawn, as much per frame as leaves the page responsive; the rest waits until it is scrolled to.

const visible = new WeakSet();
const due = new Set();
let drawing = false;

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const { chart: element } = entry.target;
    if (entry.isIntersecting) visible.add(element);
    else visible.delete(element);
    if (element.dirty) drawSoon(element);
  }
}, { rootMargin: "200px" });
const sized = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.chart.resize(entry.contentRect.width);
});

function drawSoon(element) {
  element.dirty = true;
  if (!visible.has(element)) return;
  due.add(element);
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(drawSome);
  }
}

function drawSome() {
  const end = performance.now() + FRAME_MS;
  for (const element of due) {
    due.delete(element);
    element.dirty = false;
    element.draw();
    if (performance.now() > end) break;
  }
  drawing = due.size > 0;
  if (drawing) requestAnimationFrame(drawSome);
}

/** Resolves when the charts on the screen are drawn. */
export async function drawn() {
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame(); // whose end tells what is on the screen
  await frame();
  while (due.size) await frame();
}

/** The exponential moving average of known values, corrected for its start; null where a value is. */
export function smoothed(values, weight) {
  let sum = 0;
  let norm = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** Position of the last of these rising numbers that is not above x; -1 if all are. */
function before(rising, x) {
  let low = 0;
  let high = rising.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rising[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function nearest(rising, x) {
  const n = Math.max(before(rising, x), 0);
  return n + 1 < rising.length && rising[n + 1] - x < x - rising[n] ? rising[n + 1] : rising[n];
}

function summary(title, curves, picks, spoken) {
  const words = curves.map((curve) => {
    const known = curve.mean.map((value, n) => [value, curve.step[n]]).filter(([value]) => value !== null && value !== undefined);
    if (!known.length) return `${curve.label}: no value`;
    const [[first, start], [end, stop]] = [known[0], known.at(-1)];
    return `${curve.label}: ${spoken(first)} at step ${number(start)}, ${spoken(end)} at step ${number(stop)}`;
  });
  return `${title}. ${words.join("; ") || "no values"}.${picks && words.length ? " Arrows move along it, Enter shows the rollouts." : ""}`;
}

function layout(curves, { width, height, margin, unit, log, zoom }) {
  let [left, right] = zoom || extent(curves.map((curve) => curve.x));
  if (left === right) [left, right] = [left - 1, right + 1];
  const inside = (curve, values) => values.filter((value, n) => curve.x[n] >= left && curve.x[n] <= right && drawable(value, log));
  const values = curves.flatMap((curve) => [curve.mean, curve.low || [], curve.high || []].map((column) => inside(curve, column)));
  let [bottom, top] = extent(unit && !log ? [...values, [0, 1]] : values, log ? [0.1, 1] : [0, 1]);
  if (bottom === top && log) [bottom, top] = [bottom / 2, top * 2];
  else if (bottom === top) [bottom, top] = bottom === 0 ? [0, 1] : [bottom - Math.abs(bottom) / 10, top + Math.abs(top) / 10];
  const scale = log ? Math.log10 : (value) => value;
  const [low, high] = [scale(bottom), scale(top)];
  const [wide, tall] = [width - margin.left - margin.right, height - margin.top - margin.bottom];
  return {
    width, height, margin, left, right, bottom, top,
    middle: log ? Math.sqrt(bottom * top) : (bottom + top) / 2,
    x: (x) => margin.left + ((x - left) / (right - left)) * wide,
    y: (value) => margin.top + ((high - scale(value)) / (high - low)) * tall,
    back: (pixel) => left + (Math.min(Math.max(pixel - margin.left, 0), wide) / wide) * (right - left),
  };
}

function drawable(value, log) {
  return value !== null && value !== undefined && (!log || value > 0);
}

function extent(columns, otherwise = [0, 1]) {
  let low = Infinity;
  let high = -Infinity;
  for (const column of columns) {
    for (const value of column) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low > high ? otherwise : [low, high];
}

function content(curves, frame, { compact, spoken, log, smooth, time }) {
  const { width, height, margin } = frame;
  const bottom = height - margin.bottom;
  const parts = [];
  const digits = ticks(frame.bottom, frame.top);
  for (const value of compact ? [frame.bottom, frame.top] : [frame.bottom, frame.middle, frame.top]) {
    const y = frame.y(value);
    parts.push(s("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y, y2: y }));
    if (!compact) parts.push(s("text", { x: margin.left - 4, y: y + 3, "text-anchor": "end" }, spoken(value, digits)));
  }
  if (!compact) {
    const say = time ? duration : (step) => number(Math.round(step));
    parts.push(s("text", { x: margin.left, y: height - 4 }, say(frame.left)));
    parts.push(s("text", { x: width - margin.right, y: height - 4, "text-anchor": "end" }, say(frame.right)));
    parts.push(s("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: bottom, y2: bottom }));
  }
  for (const curve of curves) if (curve.low) parts.push(s("path", { class: `band ${colour(curve.kind)}`, d: band(curve, frame, log) }));
  for (const curve of curves) {
    const means = smooth ? smoothed(curve.mean, smooth) : curve.mean;
    if (smooth) parts.push(s("path", { class: `curve raw ${colour(curve.kind)}`, d: path(curve, curve.mean, frame, log) }));
    parts.push(s("path", { class: `curve ${colour(curve.kind)}`, d: path(curve, means, frame, log) }));
    parts.push(alone(curve, frame, log));
    (curve.nonfinite || []).forEach((count, n) => {
      if (count && curve.x[n] >= frame.left && curve.x[n] <= frame.right) {
        parts.push(s("path", { class: "broken", d: `M${frame.x(curve.x[n]) - 3},${bottom}l3,-6l3,6z` }, s("title", {}, `not finite at step ${curve.step[n]}`)));
      }
    });
  }
  return parts;
}

/** Digits that tell the ends of an axis apart. */
function ticks(low, high) {
  const most = Math.max(Math.abs(low), Math.abs(high));
  return Math.min(Math.max(2, 1 + Math.ceil(Math.log10(most / (high - low)))), 6) || 2;
}

/** Dots for values with no neighbour that a line could lead to. */
function alone(curve, frame, log) {
  const there = (n) => drawable(curve.mean[n], log) && curve.x[n] >= frame.left && curve.x[n] <= frame.right;
  return curve.mean.flatMap((value, n) => (there(n) && !there(n - 1) && !there(n + 1)
    ? [s("circle", { class: `dot ${colour(curve.kind)}`, cx: frame.x(curve.x[n]), cy: frame.y(value), r: 2.5 })] : []));
}

function path(curve, values, frame, log) {
  let d = "";
  let pen = "M";
  curve.x.forEach((x, n) => {
    if (!drawable(values[n], log)) pen = "M";
    else if (x >= frame.left && x <= frame.right) {
      d += `${pen}${frame.x(x).toFixed(1)},${frame.y(values[n]).toFixed(1)}`;
      pen = "L";
    }
  });
  return d;
}

function band(curve, frame, log) {
  const known = curve.x.map((x, n) => [x, curve.low[n], curve.high[n]])
    .filter(([x, low, high]) => x >= frame.left && x <= frame.right && drawable(low, log) && drawable(high, log));
  if (!known.length) return "";
  const there = known.map(([x, , high]) => `${frame.x(x).toFixed(1)},${frame.y(high).toFixed(1)}`);
  const back = known.reverse().map(([x, low]) => `${frame.x(x).toFixed(1)},${frame.y(low).toFixed(1)}`);
  return `M${[...there, ...back].join("L")}Z`;
}

function place(svg, event) {
  const box = svg.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}
