"""The classes of a folder with one sub-folder per class.

A folder of parts (train/, test/, …, each with class folders) looks similar and is refused with a command that works.
The decision depends on all sub-folders, so that a class may be called `train` if the others are, say, vehicles.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stores.errors import UsageError
from stores.images import walk

_PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}


@dataclass
class Classes:
    """The classes of a folder.

    Attributes:
        files: sorted files of each class; classes in alphabetical order.
        passed: as in `walk.Below`.
        ours: as in `walk.Below`.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)
    ours: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return list(self.files)


def read(root: Path, test: Path | None, unlabeled: Path | None, report: Callable[[int], None]) -> Classes:
    """The classes of a folder to train from.

    Args:
        root: the folder.
        test: folder of test images, if the user gave one.
        unlabeled: folder of unlabelled images, if the user gave one.
        report: called with the number of files found so far.

    Raises:
        UsageError: no class folder, only one, an empty one, a file that belongs to no class, or a folder of parts.
    """
    _require_no_parts(root, test, unlabeled)
    found = read_test(root, report)
    if len(found.files) == 1:
        (name,) = found.files
        deeper = _inside(f"{root}/{name}")[0]
        hint = f"the classes may lie deeper: {_command(root / name, test, unlabeled)}" if len(deeper) > 1 else ""
        raise UsageError(f"'{root}' has the one class '{name}'", "a classifier needs two or more", hint)
    return found


def read_test(root: Path, report: Callable[[int], None]) -> Classes:
    """The classes of a folder of test images; like `read`, but a single class is allowed."""
    if not root.is_dir():
        raise UsageError(f"'{root}' is not a folder", hint="give a folder with a sub-folder for each class")
    found = Classes()
    folders, files = walk.entries(str(root), walk.above(root), found.passed)
    if walk.is_ours({name for name, _ in files}, str(root)):
        raise UsageError(f"'{root}' is a store or a run of realmix", "pictures are read from a folder of their own")
    loose = [path for name, path in files if not walk.is_note(name, found.passed)]
    if not folders:
        what = f"'{root}' has images but no class folders" if loose else f"'{root}' has no class folders"
        hint = "put each image into a folder named like its class; images without label go with --unlabeled"
        raise UsageError(what, "the sub-folders are the classes", hint)
    if loose:
        raise UsageError(f"'{loose[0]}' belongs to no class", "it is beside the class folders", "move it")
    count = 0
    for folder, path in folders:
        if (Path(path).resolve()) in (root.resolve(), *root.resolve().parents):
            found.passed["folder reached twice"] += 1
            continue
        below = walk.files_below(Path(path), lambda n, before=count: report(before + n))  # type: ignore[misc]
        count += len(below.files)
        found.passed += below.passed
        found.ours += below.ours
        if below.ours and not below.files:
            continue  # stores/ or runs/ of a command that was started in the folder of images
        if below.ours:
            why = f"'{below.ours[0]}' is a store or a run of realmix"
            raise UsageError(f"'{path}' holds more than pictures", why, "move it out of the folder of pictures")
        if not below.files:
            raise UsageError(f"the class folder '{path}' has no image", hint="fill it or remove it")
        name = os.fsencode(folder).decode(errors="backslashreplace")  # names that are not UTF-8, with escapes
        if name in found.files:
            raise UsageError(f"two class folders of '{root}' are called '{name}'", hint="rename one")
        found.files[name] = below.files
    if not found.files:
        raise UsageError(f"'{root}' has no class folders", "it holds stores or runs of realmix and nothing else")
    return found


def _require_no_parts(root: Path, test: Path | None, unlabeled: Path | None) -> None:
    """Refuse folders train/, test/, …: if there are no others, or if they share their class folders."""
    if not root.is_dir():
        return
    folders = _inside(str(root))[0]
    parts: dict[str, str] = {}
    for name in folders:
        parts.setdefault(_PARTS.get(name.lower(), ""), name)
    alone = "" not in parts
    if "train" not in parts or len(parts) - (not alone) < 2:
        return
    inside = {part: _inside(f"{root}/{name}") for part, name in parts.items() if part}
    classes, pictures = inside["train"]
    layered = len(classes) > 0 and not pictures
    shared = any(part == "unlabeled" or set(inside[part][0]) & set(classes) for part in inside if part != "train")
    if not alone and not (layered and shared):
        return
    what = f"'{root}' holds the parts of a data set, not its classes: {', '.join(n for p, n in parts.items() if p)}"
    if not layered:
        hint = (
            f"sort the pictures of '{parts['train']}' into a folder for each class; if these are classes, rename them"
        )
        raise UsageError(what, "the sub-folders of what is given are the classes", hint)
    held = next((parts[part] for part in ("test", "valid") if part in parts), None)
    test = test or (root / held if held is not None else None)
    unlabeled = unlabeled or (root / parts["unlabeled"] if "unlabeled" in parts else None)
    why = "the sub-folders of what is given are the classes"
    if "valid" in parts and held != parts["valid"]:
        why += f"; '{parts['valid']}' stays unused: --valid holds images of the training part out"
    raise UsageError(what, why, _command(root / parts["train"], test, unlabeled))


def _inside(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders directly in a folder, and of its files that must be images."""
    passed: Counter[str] = Counter()
    folders, files = walk.entries(folder, set(), passed)
    return [name for name, _ in folders], [name for name, _ in files if not walk.is_note(name, passed)]


def _command(path: Path, test: Path | None, unlabeled: Path | None) -> str:
    words = ["realmix-data", "build", "folder", str(path)]
    for option, folder in (("--test", test), ("--unlabeled", unlabeled)):
        words += [option, str(folder)] if folder is not None else []
    return shlex.join(words)
