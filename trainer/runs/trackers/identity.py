"""By which name or number a tracker knows a run: kept in its folder, so that a resumed run continues the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stores.format import manifest


def kept(file: Path, make: Callable[[], str]) -> str:
    """What the file says; if there is none, what `make` gives is written to it first."""
    if not file.is_file():
        manifest.write_atomically(file, make().encode())
    return file.read_text()


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record for trackers that take no nesting: `run.lr`, `settings.alpha`, `store.name`."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        found |= (
            {f"{key}.{name}": one for name, one in flat(value).items()} if isinstance(value, Mapping) else {key: value}
        )
    return found
