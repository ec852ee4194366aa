"""The image files below a folder, chosen by name and place; no file is opened.

Both stages use it. Skipped and counted are hidden files, text files (.txt, .csv, .json, …), files of operating systems
(desktop.ini, thumbnails of a NAS, a recycle bin), pipes and devices, links to folders already seen, and stores and runs
of realmix. Everything else must be an image.
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
_EVERY = 1024  # files between reports of progress

_Place = tuple[int, int]  # device and inode of a folder


@dataclass
class Below:
    """What was found below a folder.

    Attributes:
        files: paths of the files that must be images, sorted.
        ours: paths of stores and runs of realmix, which are left out.
        passed: number of skipped entries by kind.
    """

    files: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


def files_below(root: Path, report: Callable[[int], None] = lambda _: None) -> Below:
    """Search a folder and all folders below it, each once, whatever links lead to it.

    Args:
        root: the folder.
        report: called with the number of files found so far.

    Raises:
        UsageError: it is not a folder, or cannot be read.
    """
    if not root.is_dir():
        raise UsageError(f"'{root}' is not a folder")
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
    """The parents of a folder; a link to one of them would be a cycle."""
    return {_place(os.stat(parent)) for parent in folder.resolve().parents}  # noqa: PTH116


def entries(
    folder: str, seen: set[_Place], passed: Counter[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The folders and files directly in a folder, sorted, as (name, path), without skipped ones.

    Args:
        folder: the folder.
        seen: folders searched before; this one is added, and skipped if it is among them.
        passed: counter of skipped entries; text files are not skipped here.

    Raises:
        UsageError: the folder cannot be read.
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
    """Whether a file is a text file; if so, it is counted as skipped."""
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
    """One line, "passed over: 2 hidden, 1 text file"; empty if nothing was skipped."""
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
    except OSError:  # a broken link: opening it reports the error
        return "file"
    if stat.S_ISDIR(mode):
        return "system folder" if name in _SYSTEM_FOLDERS else "folder"
    if not stat.S_ISREG(mode):
        return "pipe or device"
    return "system file" if name in _SYSTEM_FILES or name.endswith(_OF_SYSTEMS) else "file"


def _place(of: os.stat_result) -> _Place:
    return of.st_dev, of.st_ino
