// The parts that a rollout is shown by.

import { gallery } from "./boxes.js";
import { h, put, table } from "./dom.js";
import { exact, number } from "./format.js";
import { pieces, plain } from "./plain.js";
import { tokenView } from "./tokens.js";

/** What tells one rollout of a run from all others, for an address. */
export function key({ phase, step, row }) {
  return `${phase}:${step}:${row}`;
}

/** A text of the server's `{text, more}`; `whole(part)` reads what is missing. */
export function long(text, whole = null) {
  const pre = h("pre", { class: "said", dir: "auto", tabindex: text.text.length > 400 ? "0" : null }, pieces(text.text)); // it may scroll
  if (!text.more) return pre;
  const rest = h("p", { class: "dim" }, `${number(text.more)} more characters. `, whole && h("button", { type: "button", onclick: async (event) => {
    event.target.disabled = true;
    const full = await whole();
    put(pre, pieces(full.text));
    rest.remove();
  } }, "Show the rest"));
  return [pre, rest];
}

/** Correct, wrong or not judged; the word says it, colour repeats it. */
export function verdictWord({ correct, status }) {
  if (correct === null) return h("span", { class: "warn" }, status === "ok" ? "not judged" : status);
  return h("span", { class: correct ? "good" : "bad" }, correct ? "✓ correct" : "✗ wrong", status !== "ok" && ` (${status})`);
}

/** Where it counts: loss and baseline, and why not. */
export function fate(one) {
  const placed = one.component && one.component !== "policy" ? h("span", { class: "tag" }, one.component) : null;
  if (one.in_loss && one.in_baseline) return placed;
  const out = [!one.in_loss && "loss", !one.in_baseline && "baseline"].filter(Boolean).join(" and ");
  return [placed, " ", h("span", { class: "warn" }, `not in the ${out}`, one.reason && [": ", plain(one.reason)])];
}

/** The components of a verdict. */
export function components(one) {
  const known = one.components.length > 0 && one.components.every((part) => part.share !== null || part.value === null);
  return h("section", { "aria-label": "Verdict" }, h("h2", {}, "Verdict"),
    h("p", {}, "Reward ", h("strong", {}, exact(one.reward)), " · ", verdictWord(one), " · advantage ", exact(one.advantage), " ", fate(one)),
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Components" }, table([
      { title: "component", cell: (part) => [plain(part.name), part.main && h("span", { class: "tag", title: "accuracy is read from it" }, "main"), part.gated && h("span", { class: "tag" }, "gated: does not count")] },
      { title: "value", number: true, cell: (part) => exact(part.value) },
      { title: "weight", number: true, cell: (part) => exact(part.weight) },
      { title: "adds", number: true, cell: (part) => exact(part.share) },
      { title: "", cell: (part) => [part.correct === null ? "" : part.correct ? "✓" : "✗", part.status !== "ok" && h("span", { class: "warn" }, ` ${part.status}`)] },
      { title: "verifier", cell: (part) => [plain(part.verifier || one.checks?.[part.name]?.verifier || "–"), one.checks?.[part.name]?.gate && [" · gate ", plain(one.checks[part.name].gate)]] },
      { title: "evidence", cell: (part) => evidence(part) },
    ], one.components, { caption: "Components of the verdict" })),
    !known && one.components.length > 0 && one.reward !== null && h("p", { class: "dim" }, "What each adds is not known: the reward is not the weighted sum of these values."));
}

function evidence(part) {
  const metrics = Object.entries(part.metrics).map(([name, value]) => `${name} ${exact(value)}`).join(", ");
  const events = part.events.map((event) => `${event.name} at decision ${event.decision}: ${exact(event.value)}`).join(", ");
  return h("div", { class: "evidence" }, part.detail.text && long(part.detail), [metrics, events].filter(Boolean).map((text) => h("div", { class: "dim" }, plain(text))));
}

/** The facts of how it was drawn. */
export function facts(one) {
  const versions = one.versions[0] === one.versions[1] ? one.versions[0] : `${one.versions[0]} to ${one.versions[1]}`;
  const listed = [
    ["rank in its group", one.rank], ["seed", one.seed], ["policy version", one.versions[0] < 0 ? "nothing was drawn" : versions],
    ["ending", one.ending + (one.truncated ? " (cut by a limit)" : "")], ["turns", one.turns],
    ["tokens", `${number(one.response_tokens)} drawn${one.prompt_tokens === null ? "" : `, prompt ${number(one.prompt_tokens)}`}`],
    ["trained as", one.component], ["in the loss", one.in_loss ? "yes" : "no"], ["in the baseline", one.in_baseline ? "yes" : "no"],
    ["reason", one.reason || "–"], ["judged in", `${exact(one.judge_seconds)} s`], ["boxes: truth in", one.truth_frame], ["boxes: answer in", one.answer_frame],
  ];
  return h("section", { "aria-label": "Sampling" }, h("h2", {}, "Sampling"),
    h("dl", { class: "drawn-facts" }, listed.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, plain(String(value)))))),
    one.events.length > 0 && [h("h3", {}, "Rewards of the environment"), h("ul", {}, one.events.map((event) =>
      h("li", {}, plain(event.name), ` at decision ${event.decision}: ${exact(event.value)}`, event.status !== "ok" && ` (${event.status})`)))]);
}

/** The conversation: the prompt's turns with their pictures in place, and what followed. `reload(part)` reads it in full. */
export function conversation(run, one, reload) {
  const at = (numbers) => gallery(run, one.pictures, one.marks, { only: numbers, compact: true });
  const block = (whole) => (part) => {
    if (part.picture === undefined) return long(part, whole);
    return part.video ? h("p", { class: "missing" }, "a video: it is not shown") : at([part.picture]);
  };
  const prompt = one.messages.map((message, m) => h("section", { class: `turn ${message.role}`, "aria-label": `${message.role}, message ${m + 1}` },
    h("h3", {}, message.role), message.blocks.map((part, b) => block(async () => (await reload()).messages[m].blocks[b])(part))));
  const calls = (turn) => one.calls.filter((call) => call.turn === turn).map((call) => called(call, reload, one.calls.indexOf(call)));
  const holder = h("div", {});
  function spoken(tokens, response) {
    put(holder, tokens.problem ? [
      h("p", { class: "note" }, tokens.problem),
      h("section", { class: "turn assistant", "aria-label": "assistant" }, h("h3", {}, "assistant"), long(response, async () => (await reload()).response)),
      one.calls.map((call, n) => called(call, reload, n)),
      later(one).length > 0 && h("section", { class: "turn tool", "aria-label": "tool" }, h("h3", {}, "pictures shown by tools"), at(later(one))),
    ] : [
      tokenView(tokens, { advantage: one.advantage, pictures: at, calls, whole: (title) => h("p", {}, h("button", { type: "button", onclick: async (event) => {
        event.target.disabled = true;
        const full = await reload();
        spoken(full.tokens, full.response);
      } }, title)) }),
      one.calls.filter((call) => call.turn >= tokens.runs.filter((part) => part.role === "assistant").length).map((call) => called(call, reload, one.calls.indexOf(call))),
      h("details", {}, h("summary", {}, "The answer as text, as it was judged"), long(response, async () => (await reload()).response)),
    ]);
  }
  spoken(one.tokens, one.response);
  return h("section", { "aria-label": "Conversation" }, h("h2", {}, "Conversation"),
    !one.known && h("p", { class: "dim" }, "The run did not keep the whole sample: the prompt is shown as one text."), prompt, holder);
}

function later(one) {
  return one.pictures.map((picture, n) => (picture.by === "tool" ? n : -1)).filter((n) => n >= 0);
}

function called(call, reload, n) {
  const whole = (part) => async () => (await reload()).calls[n][part];
  return h("section", { class: "turn call", "aria-label": `call ${n + 1}: ${call.name}` },
    h("h3", {}, "call ", plain(call.name), " ", h("span", { class: call.ok ? "good" : "bad" }, call.ok ? "✓" : "✗ failed"), h("span", { class: "dim" }, ` turn ${call.turn}`)),
    h("div", { class: "dim" }, "arguments"), long(call.args, whole("args")),
    call.error && h("p", { class: "bad" }, plain(call.error)),
    call.result.text !== "{}" && [h("div", { class: "dim" }, "result"), long(call.result, whole("result"))]);
}
