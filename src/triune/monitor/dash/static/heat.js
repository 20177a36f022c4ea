// Many curves at once: a row each, colour by the logarithm of the value, and the last value in figures.

import { h, s } from "./dom.js";
import { number } from "./format.js";

const CELLS = 120; // more columns than that cannot be told apart
const WIDTH = 600;
const HEIGHT = 14;

/** `rows`: [{label, step: [...], value: [...]}]; null is an empty cell. Columns are means over as many steps as are needed. */
export function heat(rows) {
  const steps = [...new Set(rows.flatMap((row) => row.step))].sort((a, b) => a - b);
  const wide = Math.max(1, Math.ceil(steps.length / CELLS));
  const column = new Map(steps.map((step, n) => [step, Math.floor(n / wide)]));
  const columns = Math.ceil(steps.length / wide);
  const known = rows.flatMap((row) => row.value).filter((value) => value > 0).map(Math.log);
  const low = Math.min(...known.length ? known : [0]);
  const high = Math.max(...known.length ? known : [1]);

  return h("div", { class: "scroll" }, h("table", { class: "heat" },
    h("caption", { class: "hidden" }, `From step ${number(steps[0])} to step ${number(steps.at(-1))}`),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "layer"), h("th", { scope: "col" }, `steps ${number(steps[0])} to ${number(steps.at(-1))}`), h("th", { scope: "col", class: "number" }, "last"))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.label),
      h("td", {}, strip(row)), h("td", { class: "number" }, number(row.value.at(-1))))))));

  function strip(row) {
    const sums = Array.from({ length: columns }, () => [0, 0]);
    row.step.forEach((step, n) => {
      if (row.value[n] !== null) {
        sums[column.get(step)][0] += row.value[n];
        sums[column.get(step)][1] += 1;
      }
    });
    const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "strip", role: "img", preserveAspectRatio: "none", "aria-label": `${row.label}: last ${number(row.value.at(-1))}` });
    sums.forEach(([sum, count], n) => {
      if (!count || !(sum > 0)) return;
      const share = high > low ? (Math.log(sum / count) - low) / (high - low) : 0.5;
      svg.append(s("rect", { x: (n * WIDTH) / columns, y: 0, width: WIDTH / columns + 0.3, height: HEIGHT, "fill-opacity": (0.08 + 0.92 * share).toFixed(3) },
        s("title", {}, number(sum / count))));
    });
    return svg;
  }
}
