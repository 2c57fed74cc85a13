"""Tables that commands put into pages of docs/, so that no figure there is typed by hand."""

from camlib.console import UserError
from camlib.files import write_whole


def put(path, mark, lines):
    """Put lines between a page's marks `<!-- MARK -->` and `<!-- end of MARK -->`.

    Args:
        path: Path.
        mark: str.
        lines: list of str.

    Raises:
        UserError: the page has no such marks.
    """
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    page = path.read_text("utf-8") if path.is_file() else ""
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise UserError(f"{path} has no line {begin}; expected a page with it and {end}, as docs/reliability.md")
    text = "\n".join([before + begin, *lines, end + after])
    write_whole(path, lambda file: file.write(text.encode()))


def rows(header, cells):
    """Markdown of a table: list of str, its lines.

    Args:
        header: list of str.
        cells: list of lists, one a row.
    """
    return ["| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *cells)]
