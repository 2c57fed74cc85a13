"""One self-contained HTML page: photos with their maps under a common opacity slider, tables and figures.

The page loads nothing from anywhere: pictures are inside it, and its content security policy forbids the rest.
"""

import base64
import hashlib
import html
import json

from camlib.files import write_whole

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 25%, Canvas); }
body { font: 15px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 84rem; padding: 0 1rem 3rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
form { position: sticky; top: 0; background: Canvas; display: flex; flex-wrap: wrap; gap: .5rem 1.2rem;
  padding: .6rem 0; border-bottom: 1px solid var(--line); z-index: 1; }
label { display: flex; gap: .4rem; align-items: center; }
#photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; margin-top: 1rem; }
figure { margin: 0; font-size: .8rem; overflow-wrap: anywhere; }
figure:focus-visible { outline: 2px solid Highlight; outline-offset: 3px; }
.stack { display: grid; } .stack img { grid-area: 1 / 1; width: 100%; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .8rem; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; } img.figure { max-width: 100%; background: white; }
"""

SCRIPT = """
const entries = JSON.parse(document.getElementById("entries").textContent);
const [kind, one, order, opacity] = ["kind", "class", "order", "opacity"].map(id => document.getElementById(id));
const photos = document.getElementById("photos"), count = document.getElementById("count");
const unique = list => [...new Set(list)];
function fill(select, values, texts = values) {
  const before = select.value;
  select.replaceChildren(...values.map((value, i) => new Option(texts[i], value)));
  if (values.includes(before)) select.value = before;
}
const classOf = entry => one.value || entry.class;
const mapOf = entry => (entry.maps[kind.value] || {})[classOf(entry)];
function scoresOf() {
  return unique(entries.flatMap(entry => Object.keys((mapOf(entry) || {scores: {}}).scores)));
}
function picture(source, text) {
  const image = new Image();
  image.src = source; image.alt = text;
  return image;
}
function card(entry) {
  const map = mapOf(entry), figure = document.createElement("figure");
  const stack = document.createElement("div"), caption = document.createElement("figcaption");
  const overlay = picture(map.picture, `${kind.value} of ${classOf(entry)}`);
  figure.tabIndex = 0; stack.className = "stack"; overlay.className = "overlay"; overlay.style.opacity = opacity.value;
  stack.append(picture(entry.picture, `photo ${entry.name}`), overlay);
  const text = value => value === null ? "-" : value.toFixed(3);
  const numbers = Object.entries(map.scores).map(([name, value]) => `${name} ${text(value)}`);
  caption.textContent = [`${entry.name}: ${classOf(entry)}`, ...numbers, entry.note].filter(text => text).join(", ");
  figure.append(stack, caption);
  return figure;
}
function show() {
  const scores = scoresOf();
  fill(order, ["", ...scores.flatMap(name => [`-${name}`, `+${name}`])],
       ["name", ...scores.flatMap(name => [`${name}, best first`, `${name}, worst first`])]);
  const shown = entries.filter(mapOf), name = order.value.slice(1), sign = order.value[0] === "-" ? -1 : 1;
  if (name) shown.sort((a, b) => sign * ((mapOf(a).scores[name] ?? -1) - (mapOf(b).scores[name] ?? -1)));
  photos.replaceChildren(...shown.map(card));
  count.textContent = `${shown.length} of ${entries.length}`;
}
fill(kind, unique(entries.flatMap(entry => Object.keys(entry.maps))));
const classes = unique(entries.flatMap(entry => Object.values(entry.maps).flatMap(Object.keys)));
fill(one, ["", ...classes], ["each photo's own", ...classes]);
for (const select of [kind, one, order]) select.addEventListener("change", show);
opacity.addEventListener("input", () => {
  for (const image of document.querySelectorAll(".overlay")) image.style.opacity = opacity.value;
});
photos.addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key], cards = [...photos.children];
  if (step) (cards[cards.indexOf(document.activeElement) + step] || document.activeElement).focus();
});
show();
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{hash}'">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><h1>{title}</h1>
<form><label>map <select id="kind"></select></label>
<label>class <select id="class"></select></label><label>sort by <select id="order"></select></label>
<label>opacity <input id="opacity" type="range" min="0" max="1" step="0.05" value="0.9"></label>
<output id="count" aria-live="polite"></output></form>
<div id="photos"></div>
{sections}
<script type="application/json" id="entries">{entries}</script>
<script>{script}</script></body></html>
"""


def write_page(path, title, entries, grids=(), sentences=(), figures=()):
    """Write the page.

    Args:
        path: Path.
        title: str.
        entries: list of dicts, one a photo: name, class (its own, shown first), note (str), picture (data: address) and
            maps: dict of kind -> dict of class name -> dict of picture and scores (name -> float or None).
        grids: list of (title, header, rows of str).
        sentences: list of str, shown below the tables.
        figures: list of Path of PNG files.
    """
    sections = [grid_html(*grid) for grid in grids]
    if sentences:
        sections.append("<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>")
    for figure in figures:
        text = figure.stem.replace("_", " ")
        data = base64.b64encode(figure.read_bytes()).decode()
        sections.append(
            f'<h2>{escape(text)}</h2><img class="figure" alt="{escape(text)}" src="data:image/png;base64,{data}">'
        )
    # JSON in a script element: only "<" could end it
    entries = [entry | {"name": displayable(entry["name"])} for entry in entries]
    data = json.dumps(entries, ensure_ascii=True).replace("<", "\\u003c")
    checksum = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    page = PAGE.format(
        title=escape(title), style=STYLE, script=SCRIPT, hash=f"sha256-{checksum}", entries=data,
        sections="\n".join(sections),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))


def grid_html(title, header, rows):
    """A table."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f'<h2>{escape(title)}</h2><div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def escape(text):
    """Text for HTML, in elements and in quoted attributes."""
    return html.escape(displayable(text))


def displayable(name):
    """A file's name with those of its bytes that are not UTF-8 written out."""
    return name.encode("utf-8", "backslashreplace").decode()
