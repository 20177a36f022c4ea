// Elements without a framework. Whatever is not an element becomes a text node, so that an answer of a model can
// never become markup; there is no function here that takes HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes by name, `on...` for listeners, `class` as text, false/null leaves one out, true gives a bare one. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" && "value" in element) element.value = value;
    else if (name === "checked" || name === "selected" || name === "disabled") element[name] = Boolean(value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** Adds children: elements, text, lists of these; null, undefined and false are nothing. */
export function append(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Puts these children in place of what an element holds. */
export function put(element, ...children) {
  element.replaceChildren();
  return append(element, ...children);
}

/** A table of rows; a column is {title, cell(row), number}. */
export function table(columns, rows, { caption = "", row = () => ({}) } = {}) {
  const heads = columns.map((column) => h("th", { scope: "col", class: column.number ? "number" : null }, column.title));
  const lines = rows.map((one) =>
    h("tr", row(one), columns.map((column) => h("td", { class: column.number ? "number" : null }, column.cell(one)))));
  return h("table", {}, caption && h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, heads)), h("tbody", {}, lines));
}

let fields = 0;

/** A labelled form control. */
export function field(label, control) {
  control.id ||= `field-${++fields}`;
  return h("span", { class: "field" }, h("label", { for: control.id }, label), " ", control);
}

/** Options of a list: [value, words] each. */
export function choices(pairs, chosen) {
  return pairs.map(([value, words]) => h("option", { value, selected: value === chosen }, words));
}

/** Puts up other choices only where they are others, so that a list that is open stays so. */
export function renew(select, made) {
  const said = made.map((option) => option.value).join("\0");
  const chosen = made.find((option) => option.selected)?.value ?? "";
  if (select.dataset.said !== said) {
    select.dataset.said = said;
    put(select, made);
  }
  select.value = chosen;
}

/** Offers these sources, or all; the chosen one even if it is none of them. */
export function offerSources(select, names, chosen) {
  const known = chosen && !names.includes(chosen) ? [chosen, ...names] : names;
  renew(select, choices([["", "all sources"], ...known.map((name) => [name, name])], chosen));
}

/** What `make` gives in place of what an element holds, where what it `said` is not the same; the focus stays on its link. */
export function renewed(element, said, make) {
  const words = JSON.stringify(said);
  if (element.dataset.said === words) return;
  element.dataset.said = words;
  const focused = element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  put(element, make());
  if (focused) element.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}
