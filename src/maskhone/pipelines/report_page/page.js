"use strict";
// Shows one page of masks at a time; the pictures of a mask are read when it is shown.

const MUCH = 0.1;
const FAR = 5; // near distances
const byId = (id) => document.getElementById(id);
const readJson = (element) => JSON.parse(element.textContent);

const run = readJson(byId("run"));
const masks = readJson(byId("index")).map((facts, at) => ({ ...facts, at }));
const stored = document.querySelectorAll("script.mask");
const loadPictures = (mask) => readJson(stored[mask.at]).pictures;

// words and numbers

const count = (n) => n.toLocaleString("en");
const noun = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
function percent(share) {
  const value = 100 * share;
  if (value === 0) return "0 %";
  if (value < 0.01) return "< 0.01 %";
  return `${value < 1 ? value.toFixed(2) : value < 10 ? value.toFixed(1) : count(Math.round(value))} %`;
}
const pixels = (length) => `${length < 10 ? Number(length.toFixed(1)) : Math.round(length)} px`;
const isFar = (m) => m.share > 0 && (m.reach_px === null || m.reach_px > FAR * m.near_px);
const hasNewParts = (m) => m.pieces_before !== m.pieces_after || m.holes_before !== m.holes_after;

function describePlace(m) {
  if (m.share === 0) return "nothing changed";
  if (m.reach_px === null) return m.before_px ? "there was no outline" : "there was no mask";
  const how = m.reach_px <= m.near_px ? "along the outline" : `up to ${pixels(m.reach_px)} from the outline`;
  return `${how}, ${m.place === "all around" ? m.place : `mostly ${m.place}`}`;
}

function listBadges(m) {
  const badges = [];
  if (m.kept > 0) badges.push(m.kept > 0.995 ? "kept by the guard" : "partly kept by the guard");
  if (m.before_px && !m.after_px) badges.push("lost");
  if (!m.before_px && m.after_px) badges.push("from nothing");
  if (!m.before_px && !m.after_px) badges.push("empty");
  if (isFar(m)) badges.push("far from the outline");
  return badges;
}

// elements; names of files become text, never markup

function make(tag, properties = {}, ...children) {
  const { dataset, label, ...others } = properties;
  const element = Object.assign(document.createElement(tag), others);
  Object.assign(element.dataset, dataset);
  if (label) element.setAttribute("aria-label", label);
  element.append(...children);
  return element;
}
const row = (term, ...values) => [make("dt", {}, term), make("dd", {}, ...values)];

const LAYERS = [
  { name: "before", title: "Before", swatch: "before" },
  { name: "after", title: "After", swatch: "after" },
  { name: "changes", title: "What changed" },
  { name: "alone", title: "Picture alone" },
];

function describe(layer, m) {
  const name = `${m.picture}, ${m.mask}`;
  if (layer === "alone") return `${name}: the picture`;
  if (layer === "changes") {
    return `${name}: ${count(m.added_px)} pixels added, ${count(m.removed_px)} removed, ${describePlace(m)}`;
  }
  const area = layer === "before" ? m.before_px : m.after_px;
  const pieces = layer === "before" ? m.pieces_before : m.pieces_after;
  return `${name}: mask ${layer}, ${count(area)} pixels in ${noun(pieces, "piece", "pieces")}`;
}

function makeFrame(layer, m, pictures) {
  const frame = make("span", { className: `frame ${layer}` });
  if (pictures.scale >= 3) frame.classList.add("pixels");
  frame.append(make("img", { src: pictures.crop, alt: describe(layer, m), decoding: "async" }));
  if (layer !== "alone") frame.append(make("img", { src: pictures[layer], alt: "", decoding: "async" }));
  return frame;
}

function makeFacts(m) {
  const grown = m.before_px ? (m.after_px - m.before_px) / m.before_px : 0;
  const sign = grown > 0 ? "+" : "−";
  const area = m.before_px === m.after_px ? "" : `${count(m.before_px)} → `;
  const rows = row("Area", `${area}${count(m.after_px)} px`,
    ...(grown ? [make("small", {}, `${sign}${percent(Math.abs(grown))}`)] : []));
  if (m.share === 0) rows.push(...row("Changed", "nothing"));
  else {
    rows.push(...row("Changed", `${percent(m.share)} of the object`,
      make("small", {}, `${count(m.added_px)} px added, ${count(m.removed_px)} removed`)));
    rows.push(...row("Where", describePlace(m)));
  }
  if (m.pieces_before !== m.pieces_after) rows.push(...row("Pieces", `${count(m.pieces_before)} → ${count(m.pieces_after)}`));
  if (m.holes_before !== m.holes_after) rows.push(...row("Holes", `${count(m.holes_before)} → ${count(m.holes_after)}`));
  if (m.kept !== null) rows.push(...row("Guard", m.kept > 0 ? `undid ${percent(m.kept)} of the changes` : "undid nothing"));
  const level = Math.round(m.attention);
  const bar = make("i");
  bar.style.setProperty("--share", level);
  const facts = make("div", { className: "facts" },
    make("h3", {}, ...(m.mask.startsWith(m.picture) ? [m.mask] : [m.picture, make("span", {}, m.mask)])),
    make("div", { className: "meter", title: "How much you should look, 0 to 100" }, bar, make("span", {}, "attention ", make("b", {}, `${level}`))),
  );
  const badges = listBadges(m);
  if (badges.length) facts.append(make("div", { className: "badges" }, ...badges.map((b) => make("span", { className: "badge" }, b))));
  facts.append(make("dl", {}, ...rows));
  if (m.note) facts.append(make("p", { className: "note" }, m.note));
  return facts;
}

function makeCard(m, place) {
  const pictures = loadPictures(m);
  const shape = Math.min(Math.max(pictures.size_wh[0] / pictures.size_wh[1], 0.85), 1.6);
  const figures = LAYERS.slice(0, 3).map(({ name, title, swatch }) => {
    const frame = makeFrame(name, m, pictures);
    frame.style.aspectRatio = shape;
    const open = make("button", { type: "button", title: "Large view", onclick: () => viewer.open(place, name) }, frame);
    const marks = swatch ? [make("b", { className: `swatch ${swatch}` })]
      : [make("span", { className: "long" }, `${title}:`), make("b", { className: "swatch after" }), "added", make("b", { className: "swatch before" }), "removed"];
    return make("figure", {}, make("figcaption", {}, ...(swatch ? [...marks, title] : marks)), open);
  });
  return make("article", { className: "card", label: `${m.picture}, ${m.mask}` },
    make("div", { className: "pictures" }, ...figures), makeFacts(m));
}

// what is shown

const BINS = [
  { title: "none", most: 0 }, { title: "< 1 %", most: 0.01 }, { title: "1–2", most: 0.02 },
  { title: "2–5", most: 0.05 }, { title: "5–10", most: 0.1 }, { title: "10–25", most: 0.25 },
  { title: "25–50", most: 0.5 }, { title: "> 50", most: Infinity },
];
const findBin = (m) => BINS.findIndex(({ most }) => m.share <= most);
const FILTERS = {
  all: { title: "All", test: () => true },
  much: { title: "Changed 10 % or more", test: (m) => m.share >= MUCH },
  far: { title: "Far from the outline", test: isFar },
  parts: { title: "Pieces or holes", test: hasNewParts },
  kept: { title: "Kept by the guard", test: (m) => m.kept > 0 },
  same: { title: "Unchanged", test: (m) => m.share === 0 },
};
const compareNames = new Intl.Collator("en", { numeric: true }).compare;
const byName = (a, b) => compareNames(a.picture, b.picture) || compareNames(a.mask, b.mask);
const ORDERS = {
  attention: (a, b) => b.attention - a.attention || b.share - a.share || (b.kept ?? 0) - (a.kept ?? 0) || byName(a, b),
  share: (a, b) => b.share - a.share || byName(a, b),
  reach: (a, b) => (b.reach_px ?? Infinity) - (a.reach_px ?? Infinity) || b.share - a.share || byName(a, b),
  kept: (a, b) => (b.kept ?? 0) - (a.kept ?? 0) || ORDERS.attention(a, b),
  area: (a, b) => b.after_px - a.after_px || byName(a, b),
  name: byName,
};

const state = { filter: "all", bin: null, words: [], order: "attention", perPage: 20, page: 0 };
let shown = [];

function choose() {
  const { filter, bin, words, order } = state;
  const text = (m) => `${m.picture} ${m.mask} ${m.note}`.toLowerCase();
  shown = masks.filter((m) => FILTERS[filter].test(m) && (bin === null || findBin(m) === bin)
    && (!words.length || words.every((word) => text(m).includes(word)))).sort(ORDERS[order]);
}

function update(change, { keepPage = false } = {}) {
  Object.assign(state, change);
  if (!keepPage) {
    state.page = 0;
    choose();
  }
  showPage();
}

function showPage() {
  const { perPage } = state;
  const last = Math.max(Math.ceil(shown.length / perPage) - 1, 0);
  state.page = Math.min(Math.max(state.page, 0), last);
  const start = state.page * perPage;
  const part = shown.slice(start, start + perPage);
  byId("list").replaceChildren(...part.map((m, i) => makeCard(m, start + i)));
  if (!part.length) byId("list").append(make("p", { className: "empty" }, masks.length ? "No mask fits; change the search or the filter." : "No masks."));
  byId("position").textContent = part.length ? `${count(start + 1)}–${count(start + part.length)} of ${count(shown.length)}` : "0 of 0";
  for (const id of ["first", "previous"]) byId(id).disabled = state.page === 0;
  for (const id of ["next", "last"]) byId(id).disabled = state.page === last;
  for (const button of byId("filters").children) button.setAttribute("aria-pressed", button.dataset.filter === state.filter);
  [...byId("bars").children].forEach((button, i) => button.setAttribute("aria-pressed", i === state.bin));
}

function turnTo(page) {
  update({ page }, { keepPage: true });
  byId("list").scrollIntoView({ block: "start" });
  window.scrollBy(0, -(byId("tools").offsetHeight + 16));
}

// the large view

const viewer = {
  place: 0,
  layer: "before",
  dialog: byId("viewer"),
  open(place, layer) {
    Object.assign(this, { place, layer });
    this.show();
    if (!this.dialog.open) this.dialog.showModal();
  },
  show() {
    const m = shown[this.place];
    const pictures = loadPictures(m);
    const frame = makeFrame(this.layer, m, pictures);
    const [width, height] = pictures.size_wh;
    frame.style.aspectRatio = width / height;
    frame.style.maxWidth = `min(100%, calc(62vh * ${width / height}))`;
    byId("stage").replaceChildren(frame);
    byId("viewer-title").textContent = `${m.picture} · ${m.mask}`;
    byId("viewer-facts").replaceChildren(makeFacts(m));
    for (const button of byId("layers").children) button.setAttribute("aria-pressed", button.dataset.layer === this.layer);
    byId("back").disabled = this.place === 0;
    byId("forth").disabled = this.place === shown.length - 1;
  },
  draw(layer) {
    this.layer = layer;
    this.show();
  },
  move(step) {
    const place = this.place + step;
    if (place < 0 || place >= shown.length) return;
    this.place = place;
    this.show();
  },
};

// keys

function onListKey(event) {
  const cards = [...document.querySelectorAll(".card")];
  const at = cards.findIndex((card) => card.contains(document.activeElement));
  const focus = (i) => cards[Math.min(Math.max(i, 0), cards.length - 1)]?.querySelector("button").focus();
  const actions = {
    "/": () => byId("search").focus(),
    ArrowRight: () => turnTo(state.page + 1),
    ArrowLeft: () => turnTo(state.page - 1),
    j: () => focus(at + 1),
    k: () => focus(at < 0 ? 0 : at - 1),
  };
  return actions[event.key];
}

function onViewerKey(event) {
  const actions = {
    0: () => viewer.draw("alone"),
    1: () => viewer.draw("before"),
    2: () => viewer.draw("after"),
    3: () => viewer.draw("changes"),
    " ": () => viewer.draw(viewer.layer === "before" ? "after" : "before"),
    ArrowRight: () => viewer.move(1),
    ArrowLeft: () => viewer.move(-1),
  };
  return actions[event.key];
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!viewer.dialog.open && /^(INPUT|SELECT)$/.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = viewer.dialog.open ? onViewerKey(event) : onListKey(event);
  if (act) {
    event.preventDefault();
    act();
  }
});

// a button that has the focus would take the space bar when it comes up
document.addEventListener("keyup", (event) => {
  if (viewer.dialog.open && event.key === " ") event.preventDefault();
});

// the page

function showSummary() {
  const { masks: total, pictures, changed, median_share, guarded, kept } = run.summary;
  const much = masks.filter(FILTERS.much.test).length;
  const tiles = [
    [count(total), `${total === 1 ? "mask" : "masks"} of ${noun(pictures, "picture", "pictures")}`],
    [median_share === null ? "–" : percent(median_share), "of the object changed (median)"],
    [count(much), "changed 10 % or more"],
    guarded ? [count(kept), "held back by the guard"] : [count(total - changed), "unchanged; no guard"],
  ];
  byId("tiles").append(...tiles.map(([number, title]) => make("div", {}, make("dt", {}, title), make("dd", {}, number))));
  const date = new Date(run.date).toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short" });
  byId("about").textContent = `${run.output} · ${run.settings.method} · ${date} · maskhone ${run.version}`;
  byId("command").textContent = run.command;
  byId("settings").append(...Object.entries(run.settings).map(([name, value]) => {
    const said = value !== null && typeof value === "object" ? JSON.stringify(value) : String(value ?? "–");
    return make("div", {}, make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, said));
  }));
}

function showNotices() {
  if (run.not_shown) {
    const pictures = noun(run.not_shown, "picture was", "pictures were");
    byId("notices").append(make("p", { className: "notice" }, `${pictures} refined by an earlier run without this report; their masks are not shown.`));
  }
  if (run.problems.length) {
    const list = make("ul", {}, ...run.problems.map((line) => make("li", {}, line)));
    const title = `${noun(run.problems.length, "problem", "problems")}: what could not be refined`;
    byId("notices").append(make("details", { className: "notice" }, make("summary", {}, title), list));
  }
}

function showTools() {
  for (const [name, { title, test }] of Object.entries(FILTERS)) {
    const n = masks.filter(test).length;
    if (name === "kept" && !run.summary.guarded) continue;
    const button = make("button", { type: "button", dataset: { filter: name }, onclick: () => update({ filter: name }) }, title, make("small", {}, count(n)));
    byId("filters").append(button);
  }
  const counts = BINS.map((_, i) => masks.filter((m) => findBin(m) === i).length);
  const most = Math.max(...counts, 1);
  byId("bars").append(...BINS.map(({ title }, i) => {
    const bar = make("i");
    bar.style.height = `${(76 * counts[i]) / most}px`;
    const toggle = () => update({ bin: state.bin === i ? null : i });
    const label = `${title}${/%|none/.test(title) ? "" : " %"} changed: ${noun(counts[i], "mask", "masks")}`;
    return make("button", { type: "button", label, title: label, onclick: toggle }, make("span", {}, count(counts[i])), bar, make("span", {}, title));
  }));
  for (const { name, title } of LAYERS) {
    byId("layers").append(make("button", { type: "button", dataset: { layer: name }, onclick: () => viewer.draw(name) }, title));
  }
}

function listen() {
  let waiting = 0;
  byId("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => update({ words: event.target.value.toLowerCase().split(/\s+/).filter(Boolean) }), 120);
  });
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("order").addEventListener("change", (event) => update({ order: event.target.value }));
  byId("per-page").addEventListener("change", (event) => update({ perPage: Number(event.target.value) }));
  byId("first").onclick = () => turnTo(0);
  byId("previous").onclick = () => turnTo(state.page - 1);
  byId("next").onclick = () => turnTo(state.page + 1);
  byId("last").onclick = () => turnTo(Infinity);
  byId("back").onclick = () => viewer.move(-1);
  byId("forth").onclick = () => viewer.move(1);
  byId("close").onclick = () => viewer.dialog.close();
  byId("theme").onclick = () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  };
}

showSummary();
showNotices();
showTools();
listen();
update({});
