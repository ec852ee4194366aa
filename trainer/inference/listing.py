"""Lists of images as text: CSV for people and spreadsheets, JSON lines for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stores.errors import UsageError
from stores.system import aside
from stores.system.text import csv_cell

FORMS = ("csv", "jsonl")


def require_form(form: str) -> None:
    """Raises UsageError if lists have no such form."""
    if form not in FORMS:
        raise UsageError(f"--format {form}: not a format", hint=" or ".join(FORMS))


def write(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]], form: str) -> None:
    """Write a list as `as_text` has it, completely or not at all."""
    with aside.output(path) as out:
        out.write(as_text(columns, rows, form).encode())


def as_text(columns: Sequence[str], rows: Sequence[dict[str, Any]], form: str) -> str:
    """The rows as "csv", with a header line, or "jsonl"; keys as in `columns`.

    In CSV what a spreadsheet would compute has an apostrophe before it.
    """
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([csv_cell(value) if isinstance(value, str) else value for value in row.values()])
    return text.getvalue()
