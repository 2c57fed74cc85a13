const read = id => JSON.parse(document.getElementById(id).textContent);
const entries = read("entries"), colourBars = read("bars");
const [kind, one, truth, answer, order, photos, count, key, dialog] =
  ["kind", "class", "truth", "answer", "order", "photos", "count", "key", "dialog"]
  .map(id => document.getElementById(id));
const [title, note, large, scale, others, place, previous, next] =
  ["title", "note", "large", "scale", "others", "place", "previous", "next"].map(id => document.getElementById(id));
const SWIPE = 50;  // pixels, at least
const NAME_END = 11;  // letters of a name that is cut in its middle
const unique = list => [...new Set(list)];
let shown = [], view = null;  // the entries in the gallery; what is enlarged: its entry, kind and class

function element(name, className, ...children) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
}
function fill(select, values, texts = values) {
  const before = select.value;
  select.replaceChildren(...values.map((value, i) => new Option(texts[i], value)));
  if (values.includes(before)) select.value = before;
}
// what the network that a kind of map is of answers; several networks may be shown
const answerFor = (entry, ofKind = kind.value) => entry.answers?.[ofKind] ?? entry;
const classOf = (entry, ofKind = kind.value) => one.value || answerFor(entry, ofKind).class;
const mapOf = (entry, ofKind = kind.value, name = classOf(entry, ofKind)) => (entry.maps[ofKind] || {})[name];
// the numbers that photos are sorted by: of the map, and of the answer
function scoresOf(entry, ofKind = kind.value, name = classOf(entry, ofKind)) {
  return {probability: answerFor(entry, ofKind).probabilities?.[name], ...mapOf(entry, ofKind, name)?.scores};
}
function picture(source, text, className) {
  const image = new Image();
  image.src = source; image.alt = text; image.className = className;
  return image;
}
function outlines(entry) {
  const made = document.getElementById("outline").content.firstElementChild.cloneNode(true);
  const way = entry.outlines.map(points => `M${points.map(point => point.join(" ")).join("L")}Z`).join("");
  for (const path of made.children) path.setAttribute("d", way);
  return made;
}
function stack(entry, className, ...above) {
  const photo = picture(entry.picture, `photo ${entry.name}`, className);
  const made = element("div", "stack", photo, ...above);
  photo.addEventListener("load", () => made.style.setProperty("--aspect", photo.naturalWidth / photo.naturalHeight));
  return made;
}
function superposition(entry, ofKind, name) {
  const overlay = picture(mapOf(entry, ofKind, name).picture, `${ofKind} of ${name}`, "overlay");
  return stack(entry, "photo", overlay, ...(entry.outlines?.length ? [outlines(entry)] : []));
}
function legend(map, name, numbers) {
  const {bar, ticks, ends} = map.legend;
  const ended = element("div", "ends", ...ends.map(end => element("span", "", end.replace("{class}", name))));
  const made = element("div", "legend", ended, element("div", "bar", picture(colourBars[bar], "", "overlay")));
  if (!numbers) return made;
  made.append(element("div", "ticks", ...ticks.map(([place, text]) => {
    const tick = element("span", "", text);
    tick.style.left = `${100 * place}%`; tick.style.transform = `translateX(${-100 * place}%)`;
    return tick;
  })));
  return made;
}
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
function numbersOf(entry, ofKind, name) {
  const map = mapOf(entry, ofKind, name), share = answerFor(entry, ofKind).probabilities?.[name];
  const text = value => value === null ? "-" : value.toFixed(3);
  const scores = Object.entries(map.scores).map(([score, value]) => `${score} ${text(value)}`);
  return [share === undefined ? name : `${name} ${percent(share)}`, ...scores, ...(map.zero ? ["all zero"] : [])];
}
// what the network takes the photo for, whether that is right, and the numbers of a map
function answerOf(entry, ofKind, name) {
  const {predicted, right, unsure} = answerFor(entry, ofKind), [first, ...numbers] = numbersOf(entry, ofKind, name);
  return ({true: "\u2713 ", false: "\u2717 "}[right] ?? "") + [
    first, predicted && predicted !== name && `predicted ${predicted}`,
    right === false && entry.truth !== name && `is ${entry.truth}`, unsure && "unsure", ...numbers,
  ].filter(Boolean).join(", ");
}
const stateOf = ({right, unsure}) => right === false ? "wrong" : unsure ? "unsure" : right ? "right" : "";
function card(entry) {
  const name = classOf(entry), letters = [...entry.name];
  const parts = [letters.slice(0, -NAME_END), letters.slice(-NAME_END)];
  const file = element("div", "name", ...parts.map(part => element("span", "", part.join(""))));
  file.title = entry.name;
  const caption = element("figcaption", "", file, element("div", "answer", answerOf(entry, kind.value, name)));
  const figure = element("figure", stateOf(answerFor(entry)), superposition(entry, kind.value, name), caption);
  figure.tabIndex = 0; figure.setAttribute("aria-haspopup", "dialog");
  figure.addEventListener("click", () => enlarge(entry));
  return figure;
}
const answers = {
  "": () => true, right: said => said.right === true, wrong: said => said.right === false,
  unsure: said => said.unsure,
};
function isShown(entry) {
  const [what, name] = answer.value.split(/:(.*)/s), said = answerFor(entry);
  return mapOf(entry) && (!truth.value || entry.truth === truth.value.slice(1))
    && (what === "as" ? said.predicted === name : answers[what](said));
}
function show() {
  const scores = unique(entries.filter(entry => mapOf(entry)).flatMap(entry => Object.entries(scoresOf(entry)))
    .filter(([, value]) => value !== undefined).map(([name]) => name));
  fill(order, ["", ...scores.flatMap(name => [`-${name}`, `+${name}`])],
       ["name", ...scores.flatMap(name => [`${name}, highest first`, `${name}, lowest first`])]);
  const name = order.value.slice(1), sign = order.value[0] === "-" ? -1 : 1;
  shown = entries.filter(isShown);
  if (name) shown.sort((a, b) => sign * ((scoresOf(a)[name] ?? -1) - (scoresOf(b)[name] ?? -1)));
  photos.replaceChildren(...shown.map(card));
  count.textContent = `${shown.length} of ${entries.length}`;
  const map = shown.length && mapOf(shown[0]);
  key.replaceChildren(...(map && map.legend ? [legend(map, one.value || "the class", false)] : []));
}

// one photo, enlarged

function enlarge(entry, ofKind = kind.value, name = classOf(entry, ofKind)) {
  view = {entry, ofKind, name};
  const map = mapOf(entry, ofKind, name), ofClasses = entry.maps[ofKind];
  const number = shown.indexOf(entry);
  title.textContent = `${ofKind} of ${name}: ${entry.name}`;
  note.textContent = answerOf(entry, ofKind, name); note.className = stateOf(answerFor(entry, ofKind));
  place.textContent = `${number + 1} of ${shown.length}`;
  previous.setAttribute("aria-disabled", number < 1); next.setAttribute("aria-disabled", number + 1 >= shown.length);
  large.replaceChildren(stack(entry, ""), superposition(entry, ofKind, name));
  scale.replaceChildren(...(map.legend ? [legend(map, name, true)] : []));
  const kinds = Object.keys(entry.maps).filter(other => mapOf(entry, other, name));
  others.replaceChildren(...bars(entry, ofKind),
    ...row(`${ofKind} of each class`, Object.keys(ofClasses).map(other => [ofKind, other, other])),
    ...row(`each map of ${name}`, kinds.map(other => [other, name, other])));
  if (!dialog.open) dialog.showModal();
}
function bars(entry, ofKind) {
  const likely = Object.entries(answerFor(entry, ofKind).probabilities ?? {}).sort((a, b) => b[1] - a[1]);
  if (!likely.length) return [];
  const lines = likely.map(([name, share]) => {
    const length = element("div", "share");
    length.style.width = `${100 * share}%`;
    return element("tr", name === entry.truth ? "truth" : "", element("th", "", name),
                   element("td", "", length), element("td", "", percent(share, 1)));
  });
  return [element("h3", "", "probabilities"), element("table", "probabilities", ...lines)];
}
function row(text, choices) {
  if (choices.length < 2) return [];
  const buttons = choices.map(([ofKind, name, label]) => {
    const numbers = numbersOf(view.entry, ofKind, name), text = label === name ? numbers : [label, ...numbers.slice(1)];
    const made = element("button", "", superposition(view.entry, ofKind, name), text.join(", "));
    made.type = "button"; made.setAttribute("aria-pressed", ofKind === view.ofKind && name === view.name);
    made.addEventListener("click", () => {
      enlarge(view.entry, ofKind, name);
      others.querySelector("[aria-pressed=true]").focus();
    });
    return made;
  });
  return [element("h3", "", text), element("div", "row", ...buttons)];
}
function step(by) {
  const entry = shown[shown.indexOf(view.entry) + by];
  if (entry) enlarge(entry, mapOf(entry, view.ofKind) ? view.ofKind : kind.value);
}
function stepClass(by) {
  const names = Object.keys(view.entry.maps[view.ofKind]);
  enlarge(view.entry, view.ofKind, names[(names.indexOf(view.name) + by + names.length) % names.length]);
}
for (const [button, by] of [[previous, -1], [next, 1]]) button.addEventListener("click", () => step(by));
dialog.addEventListener("click", event => {
  if (!event.target.closest("button:not(#close), label")) dialog.close();
});
let touched = null;  // where the one finger began, for swiping
dialog.addEventListener("touchstart", event => {
  touched = event.touches.length === 1 && event.target.type !== "range" ? event.touches[0] : null;
}, {passive: true});
dialog.addEventListener("touchend", event => {
  if (!touched) return;
  const {clientX, clientY} = event.changedTouches[0], by = touched.clientX - clientX;
  if (Math.abs(by) > Math.max(SWIPE, 2 * Math.abs(touched.clientY - clientY))) step(Math.sign(by));
  touched = null;
});
dialog.addEventListener("close", () => photos.children[shown.indexOf(view.entry)]?.focus());
dialog.addEventListener("keydown", event => {
  if (event.target.type === "range") return;
  const [photo, ofClass] = [{ArrowRight: 1, ArrowLeft: -1}[event.key], {ArrowDown: 1, ArrowUp: -1}[event.key]];
  if (photo) step(photo);
  if (ofClass) stepClass(ofClass);
  if (photo || ofClass) event.preventDefault();
});
photos.addEventListener("keydown", event => {
  const by = {ArrowRight: 1, ArrowLeft: -1}[event.key], cards = [...photos.children];
  if (by) (cards[cards.indexOf(document.activeElement) + by] || document.activeElement).focus();
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    enlarge(shown[cards.indexOf(document.activeElement)]);
  }
});

// the pickers, and the dials, which stand in the gallery and beside the enlarged photo

fill(kind, unique(entries.flatMap(entry => Object.keys(entry.maps))));
const classes = unique(entries.flatMap(entry => Object.values(entry.maps).flatMap(Object.keys)));
fill(one, ["", ...classes], ["each photo's own", ...classes]);
const truths = unique(entries.map(entry => entry.truth).filter(Boolean)).sort();
fill(truth, ["", ...truths.map(name => `:${name}`)], ["any class", ...truths]);
truth.parentElement.hidden = !truths.length;
const said = entries.flatMap(entry => [entry, ...Object.values(entry.answers ?? {})]);
const judged = Object.keys(answers).filter(what => what && said.some(answers[what]));
const guesses = unique(said.map(({predicted}) => predicted).filter(Boolean)).sort();
fill(answer, ["", ...judged, ...guesses.map(name => `as:${name}`)], ["all", ...judged, ...guesses]);
answer.parentElement.hidden = !guesses.length;
for (const select of [kind, one, truth, answer, order]) select.addEventListener("change", show);
function dials(name, property, turn) {
  const all = document.querySelectorAll(`input[name=${name}]`);
  for (const dial of all) dial.addEventListener("input", () => {
    for (const other of all) other[property] = dial[property];
    turn(dial[property]);
  });
  turn(all[0][property]);
  return all;
}
const root = document.documentElement;
dials("opacity", "value", value => root.style.setProperty("--opacity", value));
dials("colour", "checked", on => root.classList.toggle("in-colour", on));
const outlined = dials("outlines", "checked", on => root.classList.toggle("without-outlines", !on));
for (const dial of outlined) dial.parentElement.hidden = !entries.some(entry => entry.outlines?.length);
show();
