"""How the folders of a data set lie: folders that are its parts (train/, test/, unlabelled/) rather than its classes.

A folder of parts is refused with a command that works; a class with the name of a heap is only pointed out. The
decision depends on all sub-folders, so that a class may be called `train` if the others are, say, vehicles.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from stores.errors import UsageError
from stores.images import walk
from stores.system.text import visible

_UNLABELED = ("unlabeled", "unlabelled", "no_label", "no_labels", "nolabel", "without_label", "without_labels")
_NAMES = {
    "train": ("train", "training", "labeled", "labelled"),
    "test": ("test", "testing"),
    "valid": ("val", "valid", "validation", "dev"),
    "unlabeled": (*_UNLABELED, "rest", "unsorted", "pool"),
}
_PARTS = {name: part for part, names in _NAMES.items() for name in names}
_HEAPS = frozenset(
    ("other", "others", "unknown", "misc", "various", "background", "none", "new_folder", "images", "pictures")
) | frozenset(("photos", "photographs", "tmp", "temp", "backup", "copy", "all"))
_CLASSES = "the sub-folders of what is given are the classes"


def inside(folder: str | Path, but: Iterable[Path | None] = ()) -> tuple[list[str], list[str]]:
    """Names of the folders directly in a folder, without those in `but`, and of its files that must be images."""
    passed: Counter[str] = Counter()
    left_out = {path.resolve() for path in but if path is not None}
    folders, files = walk.entries(str(folder), set(), passed)
    own = [name for name, path in folders if not left_out or Path(path).resolve() not in left_out]
    return own, [name for name, _ in files if not walk.is_note(name, passed)]


def require_classes(root: Path, test: Path | None, unlabeled: Path | None) -> None:
    """Raise a UsageError, with a command that works, if a folder's sub-folders are the parts of a data set.

    Args:
        root: the folder.
        test: folder of test images, if the user gave one; it may lie in `root`.
        unlabeled: folder of unlabelled images, likewise.
    """
    if not root.is_dir():
        return
    parts: dict[str, str] = {}
    classes = []
    for name in inside(root, (test, unlabeled))[0]:
        part = _PARTS.get(_plain(name))
        if part is None:
            classes.append(name)
        else:
            parts.setdefault(part, name)
    if "train" in parts:
        _refuse_whole(root, parts, classes, test, unlabeled)
    else:
        _refuse_parts_among(root, parts, classes, test, unlabeled)


def _refuse_whole(
    root: Path, parts: dict[str, str], classes: Sequence[str], test: Path | None, unlabeled: Path | None
) -> None:
    """Refuse train/ and other parts: if there are no others, or if they share their class folders."""
    if len(parts) < 2:
        return
    trained, pictures = inside(root / parts["train"])
    layered = len(trained) > 0 and not pictures
    others = [part for part in parts if part != "train"]
    shared = any(part == "unlabeled" or set(inside(root / parts[part])[0]) & set(trained) for part in others)
    if classes and not (layered and shared):
        return
    what = f"'{root}' holds the parts of a data set, not its classes: {', '.join(sorted(parts.values()))}"
    if not layered:
        hint = (
            f"sort the pictures of '{parts['train']}' into a folder for each class; if these are classes, rename them"
        )
        raise UsageError(what, _CLASSES, hint)
    held = next((parts[part] for part in ("test", "valid") if part in parts), None)
    test = test or (root / held if held is not None else None)
    unlabeled = unlabeled or (root / parts["unlabeled"] if "unlabeled" in parts else None)
    why = _CLASSES
    if "valid" in parts and held != parts["valid"]:
        why += f"; '{parts['valid']}' stays unused: --valid holds images of the training part out"
    raise UsageError(what, why, command(root / parts["train"], test, unlabeled))


def _refuse_parts_among(
    root: Path, parts: dict[str, str], classes: Sequence[str], test: Path | None, unlabeled: Path | None
) -> None:
    """Refuse a folder of unlabelled images beside the classes, and one that holds the same classes again."""
    if len(classes) < 2:
        return
    found = []
    if unlabeled is None and _plain(parts.get("unlabeled", "")) in _UNLABELED:
        unlabeled = root / parts["unlabeled"]
        found.append(unlabeled.name)
    for part in ("test", "valid"):
        again = inside(root / parts[part])[0] if test is None and part in parts else []
        if again and set(again) <= set(classes):
            test = root / parts[part]
            found.append(test.name)
    if found:
        what = f"'{root}' holds other parts of a data set beside its classes: {', '.join(found)}"
        hint = command(root, test, unlabeled)
        raise UsageError(what, _CLASSES, f"{hint}; if '{found[0]}' is a class, rename it")


def doubts(root: Path, classes: Sequence[str]) -> list[str]:
    """Notes about classes that may be none: folders with the name of a heap, and folders of folders."""
    heaps = [name for name in classes if _plain(name) in _HEAPS or _plain(name) in _PARTS]
    notes = []
    if heaps:
        are = "is a class" if len(heaps) == 1 else "are classes"
        named = ", ".join(f"'{visible(name)}'" for name in heaps)
        what = "if its images have no label, give its folder with --unlabeled"
        notes.append(f"{named} {are} like any other: {what}; if they are to be tested on, with --test")
    below = [inside(root / name) for name in classes if (root / name).is_dir()]
    shared = set(below[0][0]).intersection(*(folders for folders, _ in below)) if len(below) > 1 else set()
    if len(shared) > 1 and not any(files for _, files in below):
        named = ", ".join(f"'{visible(name)}'" for name in sorted(shared)[:4]) + ", …" * (len(shared) > 4)
        notes.append(f"every class has the same sub-folders: {named}; if these are the classes, {_merge(root)}")
    return notes


def command(path: Path, test: Path | None, unlabeled: Path | None) -> str:
    """The command that builds from these folders."""
    words = ["realmix-data", "build", "folder", str(path)]
    for option, folder in (("--test", test), ("--unlabeled", unlabeled)):
        words += [option, str(folder)] if folder is not None else []
    return shlex.join(words)


def _merge(root: Path) -> str:
    return f"put those of one name into one folder, or build from one of the folders of '{root}'"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
