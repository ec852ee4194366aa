"""Which files below a folder are pictures, by where they lie and what they are called; no file is opened.

Both stages look through folders with it. Passed over and counted are hidden files, notes (.txt, .csv, .json, …), what
systems leave behind (desktop.ini, thumbnails of a NAS, a recycle bin), pipes and devices, links to a folder that has
been seen, and realmix's own stores and runs. Whatever else is there must be a picture.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from stores.errors import UsageError

NOTES = (".txt", ".md", ".html", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".toml", ".log", ".db")
_OF_SYSTEMS = (".ini", ".lnk", ".url", ":zone.identifier")
_SYSTEM_FILES = frozenset(("icon\r",))
_SYSTEM_FOLDERS = frozenset(
    (
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "__macosx",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
    )
)
_MANY = {"hidden": "hidden", "folder reached twice": "folders reached twice", "pipe or device": "pipes or devices"}
_EVERY = 1024  # files between two reports

_Place = tuple[int, int]  # device and inode of a folder


@dataclass
class Below:
    """What lies below a folder.

    Attributes:
        files: what must be a picture: paths, sorted.
        ours: stores and runs of realmix, which were left out: paths.
        passed: how many of what were passed over.
    """

    files: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


def files_below(root: Path, report: Callable[[int], None] = lambda _: None) -> Below:
    """Look through a folder and all below it; each folder once, whatever links lead to it.

    Args:
        report: called with the number of files so far.

    Raises:
        UsageError: no folder, or one that may not be read.
    """
    if not root.is_dir():
        raise UsageError(f"'{root}' is no folder")
    found, seen, todo = Below(), above(root), [str(root)]
    while todo:
        folder = todo.pop()
        folders, files = entries(folder, seen, found.passed)
        if is_ours({name for name, _ in files}, folder):
            found.ours.append(folder)
            continue
        before = len(found.files)
        found.files += [path for name, path in files if not is_note(name, found.passed)]
        todo += [path for _, path in reversed(folders)]
        if before // _EVERY != len(found.files) // _EVERY:
            report(len(found.files))
    found.files.sort()
    return found


def above(folder: Path) -> set[_Place]:
    """The folders that a folder lies in: a link to one of them leads round in a circle."""
    return {_place(os.stat(parent)) for parent in folder.resolve().parents}  # noqa: PTH116


def entries(
    folder: str, seen: set[_Place], passed: Counter[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The folders and the files right in a folder that count, sorted: (name, path) of each.

    Args:
        seen: folders that were looked into; this one joins them. If it is there already, it is passed over.
        passed: where what is passed over is counted; notes are not told apart here.

    Raises:
        UsageError: it may not be read.
    """
    folders, files = [], []
    try:
        place = _place(os.stat(folder))  # noqa: PTH116
        if place in seen:
            passed["folder reached twice"] += 1
            return [], []
        seen.add(place)
        with os.scandir(folder) as listed:
            for entry in sorted(listed, key=lambda entry: entry.name):
                kind = _kind(entry)
                if kind == "folder":
                    folders.append((entry.name, f"{folder.rstrip('/')}/{entry.name}"))
                elif kind == "file":
                    files.append((entry.name, f"{folder.rstrip('/')}/{entry.name}"))
                else:
                    passed[kind] += 1
    except OSError as error:
        raise UsageError(f"cannot read '{folder}'", error.strerror or "") from error
    return folders, files


def is_note(name: str, passed: Counter[str]) -> bool:
    """Whether a file is text about pictures and no picture; if so, it is counted."""
    note = name.lower().endswith(NOTES)
    passed["text file"] += note
    return note


def is_ours(names: Collection[str], folder: str) -> bool:
    """Whether the files of a folder are those of a store or of a run."""
    if "zarr.json" in names:
        return True
    return "config.json" in names and any(os.path.lexists(f"{folder}/{name}") for name in _OF_RUNS)


_OF_RUNS = ("metrics.jsonl", "checkpoint.pt", "result.json")


def told(passed: Counter[str]) -> str:
    """One line: "passed over: 2 hidden, 1 note"; empty if nothing was."""
    said = [
        f"{count:,} {_MANY.get(what, f'{what}s') if count > 1 else what}"
        for what, count in sorted(passed.items())
        if count
    ]
    return f"passed over: {', '.join(said)}" if said else ""


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is: "folder", "file", or the reason to pass it over."""
    name = entry.name.lower()
    if name.startswith("."):
        return "hidden"
    try:
        mode = entry.stat().st_mode
    except OSError:  # a link to nothing: whoever opens it says so
        return "file"
    if stat.S_ISDIR(mode):
        return "system folder" if name in _SYSTEM_FOLDERS else "folder"
    if not stat.S_ISREG(mode):
        return "pipe or device"
    return "system file" if name in _SYSTEM_FILES or name.endswith(_OF_SYSTEMS) else "file"


def _place(of: os.stat_result) -> _Place:
    return of.st_dev, of.st_ino
