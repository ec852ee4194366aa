"""The classes of a folder with one sub-folder per class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.sources import layout
from stores.errors import UsageError
from stores.images import walk


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
        test: folder of test images, if the user gave one; it may lie in `root`.
        unlabeled: folder of unlabelled images, likewise.
        report: called with the number of files found so far.

    Raises:
        UsageError: no class folder, only one, an empty one, a file that belongs to no class, or a folder of parts.
    """
    layout.require_classes(root, test, unlabeled)
    found = read_test(root, report, {folder.resolve() for folder in (test, unlabeled) if folder is not None})
    if len(found.files) == 1:
        (name,) = found.files
        deeper = layout.inside(root / name)[0]
        hint = f"the classes may lie deeper: {layout.command(root / name, test, unlabeled)}" if len(deeper) > 1 else ""
        raise UsageError(f"'{root}' has the one class '{name}'", "a classifier needs two or more", hint)
    return found


def read_test(root: Path, report: Callable[[int], None], but: Collection[Path] = ()) -> Classes:
    """The classes of a folder of test images; like `read`, but a single class is allowed.

    Args:
        root: the folder.
        report: called with the number of files found so far.
        but: folders that are no classes.
    """
    if not root.is_dir():
        raise UsageError(f"'{root}' is not a folder", hint="give a folder with a sub-folder for each class")
    found = Classes()
    folders, files = walk.entries(str(root), walk.above(root), found.passed)
    folders = [(name, path) for name, path in folders if not but or Path(path).resolve() not in but]
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
