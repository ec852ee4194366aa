"""Showing text from outside safely: names of classes, files and runs, and messages of libraries.

Such text may contain terminal escape sequences, bidirectional control characters, half a surrogate pair, markup of
rich, HTML or Markdown, or a spreadsheet formula. Everything printed or written for people goes through here; JSON keeps
the text as it is.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # first characters of cells that a spreadsheet evaluates
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>&|#~!$@:^]|^[-+]|^ +| +$")


def visible(text: object) -> str:
    r"""The text on one line, unprintable characters as escapes.

    >>> visible("do\x1b[31mg\n")
    'do\\x1b[31mg\\n'
    """
    said = str(text)
    return said if said.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in said)


def visible_lines(text: object) -> str:
    """`visible` for text of several lines."""
    return "\n".join(map(visible, str(text).split("\n")))


def _escape(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode()


def spelled(names: Iterable[str]) -> list[str]:
    r"""Names to be shown side by side: those that look the same are written in ASCII with escapes.

    >>> spelled(["caf\xe9", "cafe\u0301", "tea"])
    ['caf\\xe9', 'cafe\\u0301', 'tea']
    """
    names = list(names)
    looks = [_look(name) for name in names]
    return [visible(name) if looks.count(look) == 1 else _ascii(name) for name, look in zip(names, looks, strict=True)]


def look_alike(word: str, known: Iterable[str]) -> str | None:
    """How `word` differs from the known name that looks the same, both in ASCII; None if no name does."""
    twin = next((name for name in known if name != word and _look(name) == _look(word)), None)
    return None if twin is None else f"it looks the same and is not: {_ascii(word)} instead of {_ascii(twin)}"


def _look(name: str) -> str:
    """Equal for names that look the same: composed or decomposed, with or without invisible characters."""
    return "".join(c for c in unicodedata.normalize("NFKC", name) if c.isprintable())


def _ascii(name: str) -> str:
    return ascii(name)[1:-1]


def say(text: object = "", *, error: bool = False) -> None:
    """Print one line to standard output, or to standard error."""
    write(visible(text) + "\n", error=error)


def write(text: str, *, error: bool = False) -> None:
    """Write `text` as it is."""
    stream = sys.stderr if error else sys.stdout
    stream.write(text)
    stream.flush()


def print_table(
    rows: Iterable[Sequence[object]],
    head: Sequence[str] = (),
    title: str = "",
    faint: Collection[int] = (),
    numbers: bool = False,
) -> None:
    """Print a table.

    Args:
        rows: cells: text, or rich's `Text` with a style.
        head: headings of the columns; without them the first column is bold.
        title: above the table.
        faint: indices of less important rows.
        numbers: align all columns but the first to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(
        title=_plain(title) if title else None,
        title_justify="left",
        title_style="bold",
        show_header=bool(head),
        box=box.SIMPLE_HEAD if head else None,
        pad_edge=bool(head),
    )
    for i, cell in enumerate(head):
        table.add_column(_plain(cell), justify="right" if numbers and i else "left")
    for i, row in enumerate(rows):
        first, *others = map(_plain, row)
        if not head:
            first.stylize("bold")
        table.add_row(first, *others, style="dim" if i in faint else None)
    with console.capture() as captured:
        console.print(table)
    write(captured.get())


def _plain(cell: object) -> Text:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text(visible(cell))


def markdown(text: object) -> str:
    r"""Text escaped for Markdown, also within a table.

    >>> markdown("a|b <img>")
    'a\\|b \\<img\\>'
    """
    said = _MARKDOWN.sub(lambda m: "&#32;" * len(m[0]) if m[0].startswith(" ") else f"\\{m[0]}", visible(text))
    return re.sub(r"^(\d+)(?=[.)]( |$))", r"\1\\", said)  # not an item of a list


def code(text: object) -> str:
    """Text as a Markdown code span."""
    said = visible(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", said)), default=0))
    pad = " " if said.startswith(("`", " ")) or said.endswith(("`", " ")) else ""
    return f"{fence}{pad}{said}{pad}{fence}"


def csv_cell(value: object) -> object:
    """A CSV cell that no spreadsheet evaluates: text that begins like a formula gets an apostrophe; numbers do not."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return f"'{visible(value)}" if value.startswith(_FORMULA) else visible(value)


def csv_line(cells: Iterable[object]) -> str:
    """A line of CSV whose cells no spreadsheet evaluates."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(map(csv_cell, cells))
    return line.getvalue()
