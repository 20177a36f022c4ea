// Pictures with what the truth and the answer mark on them. The overlay's coordinates are the pixels of the stored
// picture, whatever size it has on the screen.

import { picture as place } from "./api.js";
import { h, put, s } from "./dom.js";
import { number } from "./format.js";
import { pieces } from "./plain.js";

const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8, 12, 16];
const SMALL = 320; // pixels on the screen that a small picture is enlarged to

/**
 * All pictures of a rollout: `pictures` and `marks` as the server describes them. `compact`: no bar, no list.
 * `only`: the numbers of those to show.
 */
export function gallery(run, pictures, marks, { compact = false, only = null, name = "Picture" } = {}) {
  const shown = pictures.map((picture, n) => ({ picture, n })).filter(({ n }) => only === null || only.includes(n));
  const figures = shown.map(({ picture, n }) => figure(run, picture, of(marks, n), { compact, name: pictures.length > 1 ? `${name} ${n + 1}` : name }));
  const element = h("div", { class: "gallery" }, figures);
  const some = ["true", "answered"].some((kind) => marks[kind]?.length);
  if (compact) return element;
  return h("div", {}, some && toggles(element), marks.problem && h("p", { class: "note warn" }, marks.problem), element);
}

function of(marks, image) {
  const keep = (listed) => (listed || []).map((mark, n) => ({ ...mark, n })).filter((mark) => mark.image === image);
  return { true: keep(marks.true), answered: keep(marks.answered) };
}

/** Switches for what is drawn in an element. */
export function toggles(element) {
  const toggle = (kind, title) => h("label", { class: `mark-key ${kind}` },
    h("input", { type: "checkbox", checked: true, onchange: (event) => element.classList.toggle(`no-${kind}`, !event.target.checked) }), ` ${title}`);
  return h("div", { class: "row" }, toggle("true", "true: solid"), toggle("answered", "answered: dashed"));
}

/** One picture. */
export function figure(run, picture, marks, { compact = false, name = "Picture" } = {}) {
  const caption = h("figcaption", { class: "dim" }, said(picture, name));
  if (!picture.size) return h("figure", { class: "picture" }, h("p", { class: "missing" }, picture.problem), caption);
  const [width, height] = picture.size;
  const canvas = h("div", { class: "canvas" });
  const image = picture.shown
    ? h("img", { src: place(run, picture.sha), alt: `${name}, ${width} × ${height} pixels`, loading: "lazy", onerror: () => image.replaceWith(gone("this picture cannot be shown")) })
    : gone(picture.problem);
  const overlay = s("svg", { class: "marks", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": words(marks) });
  for (const kind of ["true", "answered"]) for (const mark of marks[kind]) overlay.append(drawn(mark, kind));
  put(canvas, image, overlay);
  canvas.style.aspectRatio = `${width} / ${height}`;
  let zoom = 0;
  const fit = compact ? `min(100%, calc(16rem * ${width / height}))` : `max(24px, min(100%, ${Math.max(width, SMALL)}px, calc(70vh * ${width / height})))`;
  const size = () => {
    canvas.style.width = zoom ? `calc(${ZOOMS[zoom]} * ${fit})` : fit;
    canvas.classList.toggle("grown", ZOOMS[zoom] * SMALL > 3 * width);
  };
  size();
  if (compact) return h("figure", { class: "picture" }, canvas);

  const scroll = h("div", { class: "picture-scroll", tabindex: "0", role: "group", "aria-label": `${name}; + and − zoom, 0 fits` }, canvas);
  const zoomed = (by) => {
    const middle = [(scroll.scrollLeft + scroll.clientWidth / 2) / scroll.scrollWidth, (scroll.scrollTop + scroll.clientHeight / 2) / scroll.scrollHeight];
    zoom = by === 0 ? 0 : Math.min(Math.max(zoom + by, 0), ZOOMS.length - 1);
    size();
    scroll.scrollLeft = middle[0] * scroll.scrollWidth - scroll.clientWidth / 2;
    scroll.scrollTop = middle[1] * scroll.scrollHeight - scroll.clientHeight / 2;
  };
  scroll.addEventListener("keydown", (event) => {
    const by = { "+": 1, "=": 1, "-": -1, 0: 0 }[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    zoomed(by);
  });
  const button = (title, label, by) => h("button", { type: "button", title, "aria-label": title, onclick: () => zoomed(by) }, label);
  return h("figure", { class: "picture" }, scroll,
    h("div", { class: "picture-bar" }, caption, button("smaller", "−", -1), button("larger", "+", 1), button("fit", "fit", 0)),
    listed(marks, overlay));
}

function gone(problem) {
  return h("p", { class: "missing" }, problem);
}

function said(picture, name) {
  const size = picture.size ? ` · ${picture.size[0]} × ${picture.size[1]}` : "";
  const met = picture.processed && String(picture.processed) !== String(picture.size) ? `, met as ${picture.processed[0]} × ${picture.processed[1]}` : "";
  return `${name}${picture.by === "tool" ? ", shown by a tool" : ""}${size}${met} · ${picture.sha.slice(0, 8)}${picture.problem && picture.shown ? ` · ${picture.problem}` : ""}`;
}

function words(marks) {
  const count = (kind) => `${marks[kind].length} ${kind}`;
  return marks.true.length + marks.answered.length ? `Marks: ${count("true")}, ${count("answered")}` : "No marks";
}

function drawn(mark, kind) {
  const shape = { box: rect, point: dot, polygon: outline }[mark.kind](mark.xy);
  const made = (more) => s(shape[0], { ...shape[1], class: `${more} ${mark.kind}` });
  return s("g", { class: kind, "data-mark": `${kind}-${mark.n}` }, made("halo"), made("mark"), s("title", {}, line(mark, kind)));
}

function rect([x1, y1, x2, y2]) {
  return ["rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 }];
}

function dot([x, y]) {
  return ["path", { d: `M${x} ${y}h0` }];
}

function outline(xy) {
  const corners = [];
  for (let n = 0; n < xy.length; n += 2) corners.push(`${xy[n]},${xy[n + 1]}`);
  return ["polygon", { points: corners.join(" ") }];
}

function line(mark, kind) {
  const written = mark.written.map((value) => (typeof value === "string" ? value : String(Number(value.toPrecision(7)))));
  return `${kind} ${mark.n + 1}${mark.label ? ` ${mark.label}` : ""}: ${mark.kind} [${written.join(", ")}]${mark.outside ? `, ${mark.outside}` : ""}`;
}

/** The marks as text; one that is pointed at is shown in the picture. */
function listed(marks, overlay) {
  const all = ["true", "answered"].flatMap((kind) => marks[kind].map((mark) => ({ kind, mark })));
  if (!all.length) return null;
  const hot = (kind, mark, on) => overlay.querySelector(`[data-mark="${kind}-${mark.n}"]`)?.classList.toggle("hot", on);
  const outside = all.filter(({ mark }) => mark.outside).length;
  return h("details", { class: "mark-list", open: all.length <= 12 },
    h("summary", {}, `${number(all.length)} marks, as they are written${outside ? ` (${outside} reach outside the picture)` : ""}`),
    h("ul", {}, all.map(({ kind, mark }) => h("li", {
      tabindex: "0", class: `mark-key ${kind}`, onpointerenter: () => hot(kind, mark, true), onpointerleave: () => hot(kind, mark, false),
      onfocus: () => hot(kind, mark, true), onblur: () => hot(kind, mark, false),
    }, h("bdi", {}, pieces(line(mark, kind)))))));
}
