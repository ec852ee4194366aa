"""One HTML page about runs: self-contained, without scripts or network access, the same bytes for the same runs.

    records       runs read from their folders, and grouped by everything but their seeds
    page          the whole page
    verdict       the first sentence: do the unlabelled images help?
    significance  intervals, and what is better by more than chance
    comparison    the comparison of several runs
    sections      the sections about one run; its parts: classes, pool (pseudo-labels), examples, samples (copies)
    charts        SVG charts
    markup        HTML elements, with text escaped

It reads the files that training wrote, but no weights, and does not need torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stores.errors import UsageError, require_place
from stores.system import aside
from trainer.report import page, records

FILE = "report.html"


def write(runs: Sequence[Path], output: Path | None, remote: bool = False) -> Path:
    """Write the page.

    Args:
        runs: folders of runs, finished or not.
        output: the file; None: report.html in the folder of the run, or in the common parent of several runs.
        remote: read images of stores in object storage. The default is not to, as a run may name any address.

    Returns:
        The file written.

    Raises:
        StoreError: a folder is not a run.
        IntegrityError: a file of a run is damaged.
        UsageError: a run is named twice, or the folder of `output` does not exist.
    """
    require_place(output)
    found = [records.read(path, remote) for path in runs]
    resolved = [record.path.resolve() for record in found]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise UsageError(f"'{runs[i]}' is named twice")
    if output is None:
        folder = found[0].path if len(found) == 1 else Path(os.path.commonpath([path.parent for path in resolved]))
        output = folder / FILE
    text = page.render(found).encode()
    with aside.output(output) as out:
        out.write(text)
    return output
