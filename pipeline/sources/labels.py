"""Labels of image files from a CSV file with the columns `file` and `label`.

Files are named relative to the folder of images. A file that is not listed, or whose label is empty, has no label; the
sub-folders of the folder mean nothing. A comma, semicolon or tab separates the columns, as the first line shows, and
further columns are ignored. Names with commas are in quotes, as spreadsheets write them (RFC 4180).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from stores.errors import UsageError
from stores.system.text import look_alike, visible

LISTED = 8  # wrong lines in one error
_SEPARATORS = ",;\t"
_HEADER = "its first line names the columns: file,label"


def read(file: Path, root: Path, found: Sequence[str]) -> tuple[dict[str, str], str]:
    """The labels of the images below a folder.

    Args:
        file: the CSV file.
        root: the folder of images.
        found: paths of the images below it, each beginning with `root`.

    Returns:
        The label of each labelled image by its path, and the SHA-256 (hex) of all labels, whatever their order.

    Raises:
        UsageError: the file cannot be read as such a CSV; a line names no image of the folder, or one twice; there are
            fewer than two labels.
    """
    paths, labels, lines, wrong = _Paths(root, found), dict[str, str](), dict[str, int](), list[str]()
    for number, name, label in _rows(file):
        path = paths.of(name)
        if isinstance(path, _Not):
            wrong.append(f"line {number}: '{visible(name)}' {path}")
        elif path in lines:
            wrong.append(f"line {number}: '{visible(name)}' is also in line {lines[path]}")
        else:
            lines[path] = number
            if label:
                labels[path] = label
    if wrong:
        more = [f"  … and {len(wrong) - LISTED:,} more"] * (len(wrong) > LISTED)
        listed = "\n".join([f"  {line}" for line in wrong[:LISTED]] + more)
        count = "1 line" if len(wrong) == 1 else f"{len(wrong):,} lines"
        what = f"{count} of '{file}' cannot be used"
        raise UsageError(what, listed, f"name each image once, relative to '{root}': cat/1.jpg,cat")
    _require_classes(file, sorted(set(labels.values())))
    listed_labels = sorted((path[len(str(root)) + 1 :], label) for path, label in labels.items())
    return labels, hashlib.sha256(json.dumps(listed_labels).encode()).hexdigest()


class _Not(str):
    """Why a name is not that of an image."""


class _Paths:
    """Images by the names that people give them: slashes or backslashes between folders, accents composed or not."""

    def __init__(self, root: Path, found: Sequence[str]) -> None:
        start = len(str(root)) + 1
        self._root = root
        self._exact = {path[start:]: path for path in found}
        self._alike: dict[str, str | None] = {}
        for name, path in self._exact.items():
            self._alike[_alike(name)] = None if _alike(name) in self._alike else path

    def of(self, name: str) -> str | _Not:
        found = self._exact.get(name) or self._alike.get(_alike(name))
        if found is not None:
            return found
        if not name:
            return _Not("names no file")
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
            return _Not("is a whole path, not one below the folder")
        if ".." in PurePosixPath(name.replace("\\", "/")).parts:
            return _Not("leads out of the folder")
        if os.path.lexists(f"{self._root}/{name}"):  # a name with a zero byte has been refused
            return _Not("is not read as an image: it is a folder, a hidden or a text file")
        return _Not("is not in the folder")


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _rows(file: Path) -> list[tuple[int, str, str]]:
    """(line, file, label) of every line after the first; empty lines are left out."""
    text = _text(file)
    first = re.split("[\r\n]", text, maxsplit=1)[0]
    for separator in _SEPARATORS:
        header = next(csv.reader([first], delimiter=separator), [])
        columns = [name.strip().lower() for name in header]
        if columns.count("file") == columns.count("label") == 1:
            break
    else:
        what = f"'{file}' has no columns 'file' and 'label'"
        raise UsageError(what, f"its first line is '{visible(first.strip())[:80]}'", _HEADER)
    at, rows = (columns.index("file"), columns.index("label")), []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        next(reader)
        before = reader.line_num
        for cells in reader:
            if any(cell.strip() for cell in cells):
                name, label = (cells[column].strip() if column < len(cells) else "" for column in at)
                rows.append((before + 1, name, label))
            before = reader.line_num
    except csv.Error as error:
        why = f"line {reader.line_num}: {error}"
        raise UsageError(
            f"'{file}' is not CSV", why, 'a name with a comma or a quote is in quotes: "a, b.jpg"'
        ) from None
    return rows


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read '{file}'", error.strerror or "") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        why = f"byte {error.start + 1:,} is not"
        raise UsageError(f"'{file}' is not UTF-8", why, "save it again, in a spreadsheet as 'CSV UTF-8'") from None
    if "\0" in text:
        raise UsageError(f"'{file}' is not a text file", "it holds zero bytes", _HEADER)
    return text


def _require_classes(file: Path, names: list[str]) -> None:
    if len(names) < 2:
        what = f"'{file}' has the one label '{visible(names[0])}'" if names else f"'{file}' labels no image"
        raise UsageError(what, "a classifier needs two or more classes")
    for name in names:
        if not name.isprintable():
            raise UsageError(
                f"the label '{visible(name)}' of '{file}' does not print", "a class name is one line of text"
            )
        if alike := look_alike(name, names):
            raise UsageError(f"two labels of '{file}' look the same", alike, "write both in the same way")
