"""What speed.py has measured: rows of a CSV file, tables in Markdown, a bar chart, limits, their places in pages."""

import csv
import io
import re
import shutil
import statistics
import textwrap
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.speed_cases import CASES, OURS, TOOLS
from camlib.console import UserError, counted
from camlib.files import open_csv, write_whole

LINE = 118  # characters of a line in a page
NOT_MEASURED = "not measured yet"

# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """What was measured of one tool.

    Attributes:
        tool, case, dtype: keys of TOOLS and CASES, and "float32" or "bfloat16".
        batch, size: int, photos at once, their height and width.
        seconds, forward_seconds: tuples of float, each round's time of the tool, and of a plain forward pass of the
            same network in the same framework right beside it. Empty where the tool refuses.
        refuses: str, why it makes nothing, or "".
        first_call_s: float, of the first call, which compiles; None where it refuses.
        peak_mb: float, the most memory of the process, or of a GPU for it.
        agreement: float, the least correlation of a map with ours over photos and classes; None of ours itself.
        measured: str, when its rounds began; rows with the same were measured in turns.
        device, hardware, versions: str.
    """

    tool: str
    case: str
    dtype: str
    batch: int
    size: int
    seconds: tuple = ()
    forward_seconds: tuple = ()
    refuses: str = ""
    first_call_s: float | None = None
    peak_mb: float | None = None
    agreement: float | None = None
    measured: str = ""
    device: str = "CPU"
    hardware: str = ""
    versions: str = ""

    @property
    def key(self):
        """What tells it from other rows."""
        return self.tool, self.case, self.dtype, self.batch, self.size, self.device, self.hardware

    @property
    def photo_ms(self):
        """(median, least, largest) milliseconds a photo over the rounds."""
        return spread([1000 * seconds / self.batch for seconds in self.seconds])

    @property
    def ratio(self):
        """(median, least, largest) time beside the plain forward pass of the same round."""
        return ratios(self.seconds, self.forward_seconds)


def spread(values):
    """(median, least, largest)."""
    return statistics.median(values), min(values), max(values)


def ratios(ours, others):
    """`spread` of the quotients of times that were taken in the same rounds."""
    return spread([one / other for one, other in zip(ours, others, strict=True)])


NUMBERS = {"batch": int, "size": int, "first_call_s": float, "peak_mb": float, "agreement": float}
DERIVED = ("ms_a_photo", "ms_least", "ms_largest", "of_forward", "of_forward_least", "of_forward_largest")


def write_rows(path, rows):
    """Write rows as CSV, with what follows from them for whoever reads it elsewhere."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Row)]
    writer.writerow([*names, *DERIVED])
    for row in rows:
        values = asdict(row)
        cells = [
            " ".join(f"{one:.6g}" for one in values[name])
            if name.endswith("seconds")
            else ""
            if values[name] is None
            else values[name]
            for name in names
        ]
        derived = [*row.photo_ms, *row.ratio] if row.seconds else [""] * len(DERIVED)
        writer.writerow([*cells, *(one and f"{one:.4g}" for one in derived)])
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def read_rows(path):
    """The rows of a CSV file; none where it does not exist.

    Raises:
        UserError: it is another kind of file.
    """
    if not path.exists():
        return []
    names = [field.name for field in fields(Row)]
    with open_csv(path, "r") as file:
        reader = csv.DictReader(file)
        if not set(names) <= set(reader.fieldnames or ()):
            raise UserError(f"{path} has other columns; expected a table of benchmarks/speed.py, or no such file")
        return [row_of({name: record[name] for name in names}) for record in reader]


def row_of(record):
    """A Row of the texts of a CSV file."""
    for name, value in record.items():
        if name.endswith("seconds"):
            record[name] = tuple(map(float, value.split()))
        elif name in NUMBERS:
            record[name] = NUMBERS[name](value) if value else None
    return Row(**record)


def merged(rows, newer):
    """The rows, each replaced by a newer one of the same key, in the order of cases, batches, dtypes and tools."""
    found = {row.key: row for row in (*rows, *newer)}
    cases, tools = list(CASES), list(TOOLS)

    def place(row):
        case, tool = cases.index(row.case), tools.index(row.tool)
        return row.hardware, row.device, case, row.dtype != "float32", row.batch, tool

    return sorted(found.values(), key=place)


# ---------------------------------------------------------------- limits


class Limit:
    """A limit, what was measured of it, and whether that is within: str(limit) says so in a line."""

    def __init__(self, what, value, most):
        self.what, self.value, self.most = what, value, most

    @property
    def within(self):
        return self.value <= self.most

    def __str__(self):
        return f"{self.what}: {self.value:.2f}, limit {self.most:.2f}: {'within' if self.within else 'above'}"


LIMITS = {"cam": 1.05, "grad-cam": 1.10, "grad-cam-4": 1.30, "all-three": 2.4}  # of the plain forward pass
HALF = 0.6  # of float32, for bfloat16 where the processor has it


def limits_of(rows, fast_bfloat16):
    """The Limits that rows of one machine say something about.

    Args:
        rows: list of Row.
        fast_bfloat16: bool, the processor computes in bfloat16.
    """
    found = []
    by_key = {(row.tool, row.case, row.dtype, row.batch): row for row in rows if row.seconds}
    for (tool, case, dtype, batch), row in by_key.items():
        where = f"{TOOLS[tool].title}, {CASES[case].title}, batch {batch}"
        if tool not in OURS or case not in LIMITS:
            continue
        if dtype == "bfloat16":
            whole = by_key.get((tool, case, "float32", batch))
            if fast_bfloat16 and whole and whole.measured == row.measured:
                found.append(Limit(f"{where}, bfloat16 of float32", ratios(row.seconds, whole.seconds)[0], HALF))
            continue
        found.append(Limit(f"{where}, of a plain forward pass", row.ratio[0], LIMITS[case]))
        theirs = by_key.get(("xplique", case, dtype, batch))
        if case == "grad-cam" and tool == "ours-tensorflow" and theirs and theirs.measured == row.measured:
            found.append(Limit(f"{where}, of Xplique's time", ratios(row.seconds, theirs.seconds)[0], 1.0))
    return found


# ---------------------------------------------------------------- Markdown


def markdown_table(header, rows):
    """Rows of text as a table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def by_place(rows):
    """{(case, batch, size, dtype): {tool: Row}} in the rows' order."""
    found = {}
    for row in rows:
        found.setdefault((row.case, row.batch, row.size, row.dtype), {})[row.tool] = row
    return found


def grid(rows, cell):
    """A table with a line for each case, batch and dtype and a column for each tool; `cell` makes a Row's text."""
    tools = [tool for tool in TOOLS if any(row.tool == tool for row in rows)]
    lines, before = [], None
    for (case, batch, _, dtype), found in by_place(rows).items():
        title = CASES[case].title if case != before else ""
        cells = [cell(found[tool]) if tool in found else "" for tool in tools]
        lines.append([title, str(batch), dtype, *cells])
        before = case
    return markdown_table(["", "batch", "numbers", *(TOOLS[tool].title for tool in tools)], lines)


def time_text(row):
    """ "12.3 ms (1.05; 1.01-1.10)": a photo's time, and how it lies to the plain forward pass, median and spread."""
    if row.refuses:
        return "refuses"
    median, least, largest = row.ratio
    own = "" if row.case == "forward" else f" ({median:.2f}; {least:.2f}-{largest:.2f})"
    return f"{in_ms(row.photo_ms[0])} ms{own}"


def in_ms(value):
    """Milliseconds with three digits that count, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def other_text(row):
    """ "3.1 s, 1,024 MB, 0.9998": first call, peak memory, agreement."""
    if row.refuses:
        return "refuses"
    agreement = "" if row.agreement is None else f", {row.agreement:.4f}"
    return f"{row.first_call_s:.1f} s, {row.peak_mb:,.0f} MB{agreement}"


def refusals(rows):
    """A list of what each tool refuses and why, in the tools' own words."""
    found = {}
    for row in rows:
        if row.refuses:
            found.setdefault((row.tool, row.refuses), []).append(f"{CASES[row.case].title}, {row.dtype}")
    return "\n".join(
        f"- {TOOLS[tool].title} refuses {'; '.join(dict.fromkeys(cases))}: `{reason.replace('`', chr(39))}`"
        for (tool, reason), cases in found.items()
    )


def about(rows):
    """On what, with which versions, and over how many rounds the rows of one machine were measured, in a sentence."""
    rounds = [len(row.seconds) for row in rows if row.seconds]
    versions = ", ".join(dict.fromkeys(part for row in rows for part in row.versions.split(", ") if part))
    return f"{machine_of(rows[0])}; {versions}; at least {counted(min(rounds, default=0), 'round')} in turns."


def machine_of(row):
    """What a row was measured on, in words."""
    return row.hardware if row.device == "CPU" else f"{row.device} of {row.hardware}"


def by_machine(rows):
    """list of lists of the rows of one machine each."""
    found = {}
    for row in rows:
        found.setdefault((row.hardware, row.device), []).append(row)
    return list(found.values())


def tables_of(rows):
    """The tables of one machine's rows, in Markdown."""
    others = [row for row in rows if row.case in ("forward", *LIMITS, "guided")]
    parts = [
        about(rows),
        "Milliseconds a photo (and the time beside a plain forward pass of the same network in the same framework: "
        "median; least-largest of the rounds):",
        grid(rows, time_text),
    ]
    if others:
        parts += [
            "First call, peak memory of the process, least correlation of a map with ours:",
            grid(others, other_text),
        ]
    return "\n\n".join([*parts, refusals(rows)]).strip()


def sections(rows, limits):
    """{name of a place in a page: its text} of rows, and of the Limits of this machine."""
    if not rows:
        return {}
    return {
        "table": "\n\n".join(map(tables_of, by_machine(rows))),
        "limits": "\n".join(f"- {limit}" for limit in limits) or NOT_MEASURED,
        "summary": next(filter(None, map(summary, by_machine(rows))), NOT_MEASURED),
    }


def summary(rows):
    """The most telling numbers of one machine in five lines at most, for README; None where the rows lack them."""
    places = {place: found for place, found in by_place(rows).items() if place[3] == "float32"}

    def best(case):
        return next((found for (name, batch, *_), found in places.items() if (name, batch) == (case, 8)), {})

    def measured(case, tools):
        return [(tool, best(case).get(tool)) for tool in tools if (row := best(case).get(tool)) and row.seconds]

    def ratio(case):
        return " and ".join(f"{row.ratio[0]:.2f}" for _, row in measured(case, OURS))

    def ratio_of_peers(case):
        return ", ".join(f"{TOOLS[tool].title} {row.ratio[0]:.2f}" for tool, row in measured(case, peers))

    own = best("grad-cam").get("ours-tensorflow") or best("grad-cam").get("ours-jax")
    if own is None or not own.seconds:
        return None
    peers = [tool for tool in TOOLS if tool not in OURS]
    sentences = [
        f"On {machine_of(own)}, batch 8, in plain forward passes of the same network: Grad-CAM {ratio('grad-cam')} "
        f"on {' and '.join(TOOLS[tool].title.removeprefix('ours, ') for tool, _ in measured('grad-cam', OURS))} "
        f"({ratio_of_peers('grad-cam')})"
    ]
    others_too = "with guided backpropagation and their product"
    for case, title in (("grad-cam-4", "of four classes"), ("all-three", others_too), ("cam", "CAM of all classes")):
        if text := ratio(case):
            others = ratio_of_peers(case) if case == "all-three" else ""
            sentences.append(f"{title} {text}{f' ({others})' if others else ''}")
    return textwrap.fill("; ".join(sentences) + ".", LINE)


# ---------------------------------------------------------------- pages


def fill(path, texts, files=None):
    """Put texts between a page's marks `<!-- speed: NAME -->` and `<!-- end of NAME -->`, as far as it has them.

    Args:
        path: Path of the page.
        texts: dict of name -> str.
        files: dict of name -> list of Path, a picture first, which are copied beside the page and linked from there.

    Raises:
        UserError: the page has no such marks.
    """
    page = path.read_text("utf-8") if path.exists() else ""
    marks = re.findall(r"<!-- speed: (\w+) -->", page)
    if not marks:
        raise UserError(f"{path} has no line <!-- speed: table -->; expected a page with such marks, as docs/speed.md")
    for name in marks:
        if name in texts:
            text = texts[name]
            if files and name in files:
                picture, *others = [Path(shutil.copy(file, path.parent)).name for file in files[name]]
                links = ", ".join(f"[{other}]({other})" for other in others)
                text += f"\n\n![The same, drawn]({picture})\n\nAll numbers: {links}"
            begin, end = f"<!-- speed: {name} -->", f"<!-- end of {name} -->"
            pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
            page = re.sub(pattern, lambda _, text=f"{begin}\n{text}\n{end}": text, page, flags=re.DOTALL)
    write_whole(path, lambda file: file.write(page.encode()))


# ---------------------------------------------------------------- the chart


def draw(path, rows):
    """A bar chart of milliseconds a photo: a panel for each kind of map, a bar for each tool; PNG.

    Of each kind the batch of most photos up to 8 in float32 is drawn, with the spread of the rounds.
    """
    shown = {}
    for (case, batch, _, dtype), found in by_place(rows).items():
        if dtype == "float32" and batch <= 8 and case in ("cam", "grad-cam", "grad-cam-4", "guided", "all-three"):
            shown[case] = batch, [row for row in found.values() if row.seconds]
    shown = {case: (batch, found) for case, (batch, found) in shown.items() if found}
    if not shown:
        return
    heights = [len(found) + 1 for _, found in shown.values()]
    figure = Figure(figsize=(8, 0.9 * len(shown) + 0.3 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (case, (batch, found)) in zip(panels, shown.items(), strict=True):
        for place, row in enumerate(found):
            median, least, largest = row.photo_ms
            panel.barh(
                place,
                median,
                color="C0" if row.tool in OURS else "0.6",
                xerr=[[median - least], [largest - median]],
                error_kw={"linewidth": 0.8},
            )
            panel.text(largest, place, f"  {row.ratio[0]:.2f}", va="center", fontsize=8)
        panel.set_yticks(range(len(found)), [TOOLS[row.tool].title for row in found])
        panel.invert_yaxis()
        panel.margins(x=0.12)
        panel.set_title(f"{CASES[case].title}, batch {batch}", loc="left", fontsize=9)
    panels[-1].set_xlabel("milliseconds a photo; the number: times a plain forward pass in the same framework")
    figure.suptitle(machine_of(found[0]), fontsize=9)
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))
