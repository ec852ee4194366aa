"""One HTML page about runs: self-contained, without scripts or network, the same bytes for the same runs.

    records     runs read from their folders, grouped by everything but their seeds
    page        the page: head, one run's sections, several runs' comparison
    sections    what is shown of one run;  comparison: of several;  samples: of their store
    charts      SVG from numbers;  markup: HTML from text, escaped

It reads what training wrote and never a weight: no torch, no evaluation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stores.errors import UsageError
from stores.system import aside
from trainer.report import page, records

FILE = "report.html"


def write(runs: Sequence[Path], output: Path | None, remote: bool = False) -> Path:
    """Write the page.

    Args:
        runs: folders of runs, finished or not.
        remote: ask object storage for the images of runs whose stores lie there; a run's record may name any place.
        output: the file; None: report.html in the run's folder, of several runs in the folder that holds them all.

    Returns:
        the file.

    Raises:
        StoreError: a folder is no run.
        IntegrityError: a file of a run is damaged.
        UsageError: a run named twice, or no folder to write to.
    """
    found = [records.read(path, remote) for path in runs]
    resolved = [record.path.resolve() for record in found]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise UsageError(f"'{runs[i]}' is named twice")
    if output is None:
        folder = found[0].path if len(found) == 1 else Path(os.path.commonpath([path.parent for path in resolved]))
        output = folder / FILE
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"'{output}' cannot be written", "it must be a file in a folder that exists")
    text = page.render(found).encode()
    with aside.output(output) as out:
        out.write(text)
    return output
