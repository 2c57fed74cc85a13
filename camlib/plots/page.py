"""One self-contained HTML page: tables and figures, and photos with their maps, each of which can be enlarged.

The page loads nothing from anywhere: pictures are inside it, and its content security policy forbids the rest.
"""

import base64
import hashlib
import html
import json

from camlib.files import write_whole
from camlib.plots.colours import USUAL, bars_for_page

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 25%, Canvas); --opacity: 1;
  scroll-padding-top: 4rem; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 84rem; padding: 0 1rem 3rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } nav ol { columns: 20rem; padding-left: 1.4rem; }
@media (min-width: 50rem) { form { position: sticky; top: 0; } }
form { background: Canvas; display: flex; flex-wrap: wrap; gap: .5rem 1.2rem;
  padding: .6rem 0; border-bottom: 1px solid var(--line); z-index: 1; align-items: center; }
label { display: flex; gap: .4rem; align-items: center; } [hidden] { display: none !important; }
#photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; margin-top: 1rem; }
figure { margin: 0; font-size: .8rem; overflow-wrap: anywhere; cursor: zoom-in; }
figure:focus-visible, button:focus-visible { outline: 2px solid Highlight; outline-offset: 3px; }
figure.wrong figcaption::first-line { font-weight: bold; }
.stack { position: relative; } .stack img { width: 100%; display: block; }
.stack .overlay, .stack svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.overlay { opacity: var(--opacity); } .stack .photo { filter: grayscale(1); }
.in-colour .stack .photo { filter: none; } .without-outlines .stack svg { display: none; }
svg path { fill: none; stroke: black; stroke-width: 3.4px; vector-effect: non-scaling-stroke; }
svg path + path { stroke: white; stroke-width: 1.4px; }
.legend { font-size: .8rem; } #key { flex: 0 1 28rem; }
.ends { display: flex; justify-content: space-between; gap: 1rem; }
.bar { background: #808080; height: .8rem; } .bar img { display: block; width: 100%; height: 100%; }
.ticks { position: relative; height: 1.3em; font-variant-numeric: tabular-nums; } .ticks span { position: absolute;
  white-space: nowrap; }
dialog { box-sizing: border-box; width: min(76rem, 100vw); max-width: none; max-height: 100vh; margin: auto;
  padding: .8rem 1rem 1.2rem; border: 1px solid var(--line); background: Canvas; color: CanvasText; cursor: zoom-out; }
dialog::backdrop { background: rgb(0 0 0 / 60%); }
.head { display: flex; justify-content: space-between; gap: 1rem; align-items: start; }
.head h2 { margin: 0; overflow-wrap: anywhere; } .head p { margin: .2rem 0 .6rem; }
.columns { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 1.2rem; }
@media (max-width: 50rem) { .columns { grid-template-columns: minmax(0, 1fr); } }
#large .stack { width: min(100%, calc(62vh * var(--aspect, 1))); margin: 0 auto .5rem; }
#others h3 { font-size: .9rem; margin: .2rem 0; } #others div.row { display: grid; gap: .5rem; margin-bottom: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); }
#others button { font: inherit; font-size: .8rem; text-align: left; padding: 3px; border: 2px solid transparent;
  background: none; color: inherit; cursor: pointer; overflow-wrap: anywhere; align-self: start; }
#others button[aria-pressed=true] { border-color: CanvasText; }
#dials { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; margin-top: .6rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .8rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; } img.figure { max-width: 100%; background: white; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; font-size: .8rem; }
dt { font-weight: 600; } dd { margin: 0; }
@media (max-width: 40rem) { dl { display: block; } dd { margin-bottom: .3rem; } }
p.docs { font-size: .8rem; }
"""

SCRIPT = """
const read = id => JSON.parse(document.getElementById(id).textContent);
const entries = read("entries"), bars = read("bars");
const [kind, one, truth, answer, order, photos, count, key, dialog] =
  ["kind", "class", "truth", "answer", "order", "photos", "count", "key", "dialog"]
  .map(id => document.getElementById(id));
const [title, note, large, scale, others] =
  ["title", "note", "large", "scale", "others"].map(id => document.getElementById(id));
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
const classOf = entry => one.value || entry.class;
const mapOf = (entry, ofKind = kind.value, name = classOf(entry)) => (entry.maps[ofKind] || {})[name];
function scoresOf() {
  return unique(entries.flatMap(entry => Object.keys((mapOf(entry) || {scores: {}}).scores)));
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
function stack(entry, ofKind, name) {
  const photo = picture(entry.picture, `photo ${entry.name}`, "photo");
  const overlay = picture(mapOf(entry, ofKind, name).picture, `${ofKind} of ${name}`, "overlay");
  const made = element("div", "stack", photo, overlay);
  photo.addEventListener("load", () => made.style.setProperty("--aspect", photo.naturalWidth / photo.naturalHeight));
  if (entry.outlines?.length) made.append(outlines(entry));
  return made;
}
function legend(map, name, numbers) {
  const {bar, ticks, ends} = map.legend;
  const ended = element("div", "ends", ...ends.map(end => element("span", "", end.replace("{class}", name))));
  const made = element("div", "legend", ended, element("div", "bar", picture(bars[bar], "", "overlay")));
  if (!numbers) return made;
  made.append(element("div", "ticks", ...ticks.map(([place, text]) => {
    const tick = element("span", "", text);
    tick.style.left = `${100 * place}%`; tick.style.transform = `translateX(${-100 * place}%)`;
    return tick;
  })));
  return made;
}
function numbersOf(map) {
  const text = value => value === null ? "-" : value.toFixed(3);
  const scores = Object.entries(map.scores).map(([name, value]) => `${name} ${text(value)}`);
  return map.zero ? [...scores, "all zero"] : scores;
}
function card(entry) {
  const caption = element("figcaption", ""), name = classOf(entry);
  caption.textContent = [`${entry.name}: ${name}`, ...numbersOf(mapOf(entry)), entry.note].filter(Boolean).join(", ");
  const figure = element("figure", entry.right === false ? "wrong" : "", stack(entry, kind.value, name), caption);
  figure.tabIndex = 0; figure.setAttribute("aria-haspopup", "dialog");
  figure.addEventListener("click", () => enlarge(entry));
  return figure;
}
const answers = {
  "": () => true, right: entry => entry.right === true, wrong: entry => entry.right === false,
};
function isShown(entry) {
  const [what, name] = answer.value.split(/:(.*)/s);
  return mapOf(entry) && (!truth.value || entry.truth === truth.value.slice(1))
    && (what === "as" ? entry.predicted === name : answers[what](entry));
}
function show() {
  const scores = scoresOf();
  fill(order, ["", ...scores.flatMap(name => [`-${name}`, `+${name}`])],
       ["name", ...scores.flatMap(name => [`${name}, highest first`, `${name}, lowest first`])]);
  const name = order.value.slice(1), sign = order.value[0] === "-" ? -1 : 1;
  shown = entries.filter(isShown);
  if (name) shown.sort((a, b) => sign * ((mapOf(a).scores[name] ?? -1) - (mapOf(b).scores[name] ?? -1)));
  photos.replaceChildren(...shown.map(card));
  count.textContent = `${shown.length} of ${entries.length}`;
  const map = shown.length && mapOf(shown[0]);
  key.replaceChildren(...(map && map.legend ? [legend(map, one.value || "the class", false)] : []));
}

// one photo, enlarged

function enlarge(entry, ofKind = kind.value, name = classOf(entry)) {
  view = {entry, ofKind, name};
  const map = mapOf(entry, ofKind, name), ofClasses = entry.maps[ofKind];
  title.textContent = `${ofKind} of ${name}: ${entry.name}`;
  note.textContent = [...numbersOf(map), entry.note, `${shown.indexOf(entry) + 1} of ${shown.length}`]
    .filter(Boolean).join(", ");
  large.replaceChildren(stack(entry, ofKind, name));
  scale.replaceChildren(...(map.legend ? [legend(map, name, true)] : []));
  const kinds = Object.keys(entry.maps).filter(other => mapOf(entry, other, name));
  others.replaceChildren(
    ...row(`${ofKind} of each class`, Object.keys(ofClasses).map(other => [ofKind, other, other])),
    ...row(`each map of ${name}`, kinds.map(other => [other, name, other])));
  if (!dialog.open) dialog.showModal();
}
function row(text, choices) {
  if (choices.length < 2) return [];
  const buttons = choices.map(([ofKind, name, label]) => {
    const numbers = numbersOf(mapOf(view.entry, ofKind, name));
    const made = element("button", "", stack(view.entry, ofKind, name), [label, ...numbers].join(", "));
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
dialog.addEventListener("click", event => {
  if (!event.target.closest("button:not(#close), label")) dialog.close();
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
const judged = entries.some(entry => typeof entry.right === "boolean") ? ["right", "wrong"] : [];
const guesses = unique(entries.map(entry => entry.predicted).filter(Boolean)).sort();
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
"""

DIALS = """<label>opacity <input name="opacity"{id} type="range" min="0" max="1" step="0.05" value="{opacity}"></label>
<label><input name="colour" type="checkbox"{in_colour}> photo in colour</label>
<label><input name="outlines" type="checkbox" checked> true outline</label>"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{hash}'">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><h1>{title}</h1>
{sections}
<section>{heading}
<form><label>map <select id="kind"></select></label>
<label>class <select id="class"></select></label><label>photos of <select id="truth"></select></label>
<label>answers <select id="answer"></select></label><label>sort by <select id="order"></select></label>
{dials}
<div id="key"></div><output id="count" aria-live="polite"></output></form>
<div id="photos"></div></section>
<dialog id="dialog" aria-labelledby="title"><div class="head"><div><h2 id="title"></h2><p id="note"></p></div>
<button id="close" type="button" title="Escape, or a click on the picture">close</button></div>
<div class="columns"><div><div id="large"></div><div id="scale"></div><div id="dials">{large_dials}</div></div>
<div id="others"></div></div></dialog>
<template id="outline">
<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true"><path/><path/></svg>
</template>
<script type="application/json" id="entries">{entries}</script>
<script type="application/json" id="bars">{bars}</script>
<script>{script}</script></body></html>
"""


def write_page(path, title, entries, grids=(), sentences=(), figures=(), explanations=None, style=USUAL):
    """Write the page: contents, tables, sentences and figures if there are any, then the photos.

    Args:
        path: Path.
        title: str.
        entries: list of dicts, one a photo: name, class (its own, shown first), note (str), picture (data: address) and
            maps: dict of kind -> dict of class name -> dict of picture, scores (name -> float or None) and, if known,
            legend (as `camlib.plots.colours.legend_of` makes it) and zero (True where the map is zero everywhere). If known
            also truth and predicted (class names), right (bool) and outlines (list of polygons, lists of (x, y) in
            shares of width and height).
        grids: list of (title, header, rows of str).
        sentences: list of str, shown below the tables.
        figures: list of Path of PNG files.
        explanations: dict of a grid's title -> (where more is said, list of (metric, one line about it)).
        style: Style; the maps themselves are drawn at full opacity.
    """
    contents = []

    def heading(text):
        contents.append(text)
        return f"<h2 id=part{len(contents)}>{escape(text)}</h2>"

    sections = [
        heading(name) + grid_html(header, rows) + explanation_html(*(explanations or {}).get(name, ("", [])))
        for name, header, rows in grids
    ]
    if sentences:
        sections.append("<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>")
    for figure in figures:
        text = figure.stem.replace("_", " ")
        data = base64.b64encode(figure.read_bytes()).decode()
        sections.append(f'{heading(text)}<img class="figure" alt="{escape(text)}" src="data:image/png;base64,{data}">')
    of_photos = heading("Photos") if sections else ""
    page = PAGE.format(
        title=escape(title), style=STYLE, script=SCRIPT, hash=f"sha256-{checksum(SCRIPT)}",
        sections="\n".join([contents_html(contents) if sections else "", *sections]), heading=of_photos,
        dials=dials_html(style, ' id="opacity"'), large_dials=dials_html(style, ""),
        entries=script_json([entry | {"name": displayable(entry["name"])} for entry in entries]),
        bars=script_json(bars_for_page(style._replace(opacity=1.0))),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))


def dials_html(style, identity):
    """The slider and the switches of a photo and its map."""
    return DIALS.format(id=identity, opacity=style.opacity, in_colour=" checked" if style.in_colour else "")


def script_json(value):
    """JSON for a script element, which only "<" could end."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")


def checksum(script):
    """SHA-256 of a script as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def contents_html(titles):
    """Links to the parts of the page."""
    links = "".join(f"<li><a href=#part{number}>{escape(title)}</a></li>" for number, title in enumerate(titles, 1))
    return f"<nav aria-label=contents><ol>{links}</ol></nav>"


def explanation_html(place, metrics):
    """One line about each metric of a table, and where more is said."""
    if not metrics:
        return ""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in metrics)
    arrows = "↑ more is better, ↓ less; in brackets 95 % intervals."
    return f"<dl>{lines}</dl><p class=docs>{arrows} More: {escape(place)}</p>"


def grid_html(header, rows):
    """A table."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def escape(text):
    """Text for HTML, in elements and in quoted attributes."""
    return html.escape(displayable(text))


def displayable(name):
    """A file's name with those of its bytes that are not UTF-8 written out."""
    return name.encode("utf-8", "backslashreplace").decode()
