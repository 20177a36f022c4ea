// Histograms: bars with their counts in words.

import { h, s } from "./dom.js";
import { number } from "./format.js";

const WIDTH = 240;
const BASE = 16;

/** `bins`: [{label, count}]; every third label is written below. `pick(bin)` for a click or Enter on a bar. */
export function bars({ title, bins, height = 110, level = 3, note = "" }) {
  const most = Math.max(1, ...bins.map((bin) => bin.count));
  const wide = WIDTH / bins.length;
  const words = bins.filter((bin) => bin.count).map((bin) => `${bin.label}: ${number(bin.count)}`).join("; ");
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": `${title}. ${words || "no values"}` });
  bins.forEach((bin, n) => {
    const tall = (bin.count / most) * (height - BASE - 12);
    svg.append(s("rect", { class: "bar", x: n * wide + 1, y: height - BASE - tall, width: wide - 2, height: tall }, s("title", {}, `${bin.label}: ${bin.count}`)));
    if (bin.count) svg.append(s("text", { x: (n + 0.5) * wide, y: height - BASE - tall - 2, "text-anchor": "middle" }, number(bin.count)));
    if (bins.length <= 6 || n % 3 === 0 || n === bins.length - 1) svg.append(s("text", { x: (n + 0.5) * wide, y: height - 4, "text-anchor": "middle" }, bin.label));
  });
  return h("figure", { class: "chart card" }, h(`h${level}`, {}, title), note && h("p", { class: "dim" }, note), svg);
}
