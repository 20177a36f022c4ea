// What a policy said, token by token: shaded by log-prob or by advantage, with the exact numbers of the one under the
// mouse or the cursor.

import { h, put } from "./dom.js";
import { exact } from "./format.js";
import { pieces } from "./plain.js";

const SHADES = [["logp", "log-prob"], ["advantage", "advantage"], ["", "none"]];
const LIKELY = [0.99, 0.9, 0.7, 0.4, 0.1, 0.01];
const AHEAD = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 20, ArrowUp: -20 };

/**
 * `tokens` as the server describes them; `pictures(numbers)` makes the element of pictures that a tool showed, `calls(turn)`
 * what was called in a turn. `advantage` is the rollout's, where it is the same for every token.
 */
export function tokenView(tokens, { advantage, pictures, calls, whole }) {
  const reading = h("p", { class: "token-reading", "aria-live": "polite" }, "Hover, or Tab here and use the arrows: the numbers of a token.");
  const spans = [];
  const numbers = [];
  let here = -1;
  const largest = Math.max(1e-9, ...tokens.runs.flatMap((run) => run.advantage || []).map((value) => Math.abs(value) || 0), Math.abs(advantage) || 0);
  let turn = 0;
  const runs = tokens.runs.map((run, number) => {
    if (run.pictures) return [h("p", { class: "dim" }, `${run.tokens} tokens of pictures`), pictures(run.pictures)];
    const text = h("div", { class: "tokens" }, run.pieces.map((piece, n) => token(run, piece, n)));
    const spoken = h("section", { class: `turn ${run.role}`, "aria-label": `${run.role}, part ${number + 1}` }, h("h3", {}, run.role), text);
    return run.role === "assistant" ? [spoken, calls(turn++)] : spoken;
  });
  const box = h("div", { class: "spoken shade-logp", tabindex: "0", role: "group", "aria-label": "Tokens of the conversation", onkeydown: walked, onpointerover: pointed }, runs);
  const choice = h("fieldset", { class: "row shade" }, h("legend", {}, "Shading"), SHADES.map(([name, title], n) => h("label", {},
    h("input", { type: "radio", name: "shade", value: name, checked: n === 0, onchange: () => { box.className = `spoken ${name && `shade-${name}`}`; } }), ` ${title}`)));
  return h("div", {}, choice,
    h("p", { class: "dim token-key" }, "Log-prob: the stronger the colour, the less likely it was. Advantage: with a line below, positive; with one above, negative. ",
      h("span", { class: "forced" }, "Dotted"), ": placed, not drawn.",
      tokens.masked && [" ", h("strong", {}, "This rollout is not in the loss: no token of it trains anything.")]),
    tokens.note && h("p", { class: "note warn" }, tokens.note),
    reading, box, tokens.more > 0 && whole(`Show the other ${tokens.more.toLocaleString("en")} tokens`));

  function token(run, piece, n) {
    const logp = run.logp[n];
    const own = run.advantage ? run.advantage[n] : run.decision[n] >= 0 ? advantage : null;
    const shade = [run.forced[n] && "forced"];
    if (typeof logp === "number") shade.push(`p${LIKELY.filter((bound) => Math.exp(logp) < bound).length}`);
    if (typeof own === "number" && own !== 0) shade.push(own > 0 ? "up" : "down", `a${Math.min(3, Math.ceil((3 * Math.abs(own)) / largest))}`);
    numbers.push({ piece, id: run.ids[n], decision: run.decision[n], logp, advantage: own, forced: run.forced[n], role: run.role });
    const span = h("span", { class: ["tk", ...shade].filter(Boolean).join(" "), "data-n": spans.length }, visible(piece));
    spans.push(span);
    return span;
  }

  function visible(piece) {
    return piece === "\n" ? [h("span", { class: "dim" }, "⏎"), "\n"] : pieces(piece);
  }

  function pointed(event) {
    const span = event.target.closest(".tk");
    if (span) show(Number(span.dataset.n));
  }

  function walked(event) {
    const to = event.key === "Home" ? 0 : event.key === "End" ? spans.length - 1 : event.key in AHEAD ? here + AHEAD[event.key] : null;
    if (to === null || event.target !== box) return;
    event.preventDefault();
    show(Math.min(Math.max(to, 0), spans.length - 1));
    spans[here]?.scrollIntoView({ block: "nearest" });
  }

  function show(n) {
    spans[here]?.classList.remove("here");
    here = n;
    spans[here]?.classList.add("here");
    const one = numbers[n];
    if (!one) return;
    const said = [`token ${one.id}`, one.decision < 0 ? `placed by the ${one.role}` : `decision ${one.decision}`];
    if (one.forced) said.push("placed, not drawn: it has no log-prob");
    else if (one.logp !== null) said.push(`log-prob ${exact(one.logp)} (probability ${exact(Math.exp(one.logp))})`);
    if (one.advantage !== null) said.push(`advantage ${exact(one.advantage)}`);
    put(reading, h("code", {}, h("bdi", {}, pieces(JSON.stringify(one.piece)))), ` · ${said.join(" · ")}`);
  }
}
