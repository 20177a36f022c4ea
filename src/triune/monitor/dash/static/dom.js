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
