// Many curves at once: a row each, colour by the logarithm of the value, and the last value in figures.

import { h, s } from "./dom.js";
import { number } from "./format.js";

const CELLS = 120; // more columns than that cannot be told apart
const WIDTH = 600;
const HEIGHT = 14;

/** `rows`: [{layer, step: [...], mean: [...], nonfinite: [...]}]; null is an empty cell. Columns are means over as many steps as
 * are needed; one in which a value was not finite is marked. */
export function heat(rows) {
  const steps = [...new Set(rows.flatMap((row) => row.step))].sort((a, b) => a - b);
  const wide = Math.max(1, Math.ceil(steps.length / CELLS));
  const column = new Map(steps.map((step, n) => [step, Math.floor(n / wide)]));
  const columns = Math.ceil(steps.length / wide);
  let [low, high] = [Infinity, -Infinity];
  for (const row of rows) {
    for (const value of row.mean) if (value > 0) [low, high] = [Math.min(low, Math.log(value)), Math.max(high, Math.log(value))];
  }

  return h("div", { class: "scroll" }, h("table", { class: "heat" },
    h("caption", { class: "hidden" }, `From step ${number(steps[0])} to step ${number(steps.at(-1))}`),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "layer"), h("th", { scope: "col" }, `steps ${number(steps[0])} to ${number(steps.at(-1))}`), h("th", { scope: "col", class: "number" }, "last"))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.layer),
      h("td", {}, strip(row)), h("td", { class: "number" }, last(row)))))));

  function strip(row) {
    const sums = Array.from({ length: columns }, () => [0, 0, false]);
    row.step.forEach((step, n) => {
      const sum = sums[column.get(step)];
      if (row.mean[n] !== null) {
        sum[0] += row.mean[n];
        sum[1] += 1;
      }
      sum[2] ||= row.nonfinite[n] > 0;
    });
    const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "strip", role: "img", preserveAspectRatio: "none", "aria-label": `${row.layer}: last ${last(row)}` });
    sums.forEach(([sum, count, broken], n) => {
      if (!broken && !(sum > 0)) return;
      const share = high > low ? (Math.log(sum / count) - low) / (high - low) : 0.5;
      svg.append(s("rect", { x: (n * WIDTH) / columns, y: 0, width: WIDTH / columns + 0.3, height: HEIGHT, class: broken ? "broken" : null, "fill-opacity": broken ? 1 : (0.08 + 0.92 * share).toFixed(3) },
        s("title", {}, broken ? "not finite" : number(sum / count))));
    });
    return svg;
  }
}

function last(row) {
  return row.nonfinite.at(-1) ? "not finite" : number(row.mean.at(-1));
}
