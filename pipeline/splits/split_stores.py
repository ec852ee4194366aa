"""Writing split stores beside their dataset store, from the options of a command line."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.splits.draw import Split
from pipeline.splits.protocols import Request, completed, draw_split, draw_standard
from pipeline.splits.validation import default_valid
from stores import DatasetStore
from stores.errors import UsageError
from stores.format import names
from stores.storage.location import Location
from stores.writer import write_split

_EACH = ("class", "each")
N = TypeVar("N", int, float)
OWN = ("folder", "arrays")  # sources of one's own images
ARRAYS = ("labeled", "unlabeled", "valid", "test")


def requests_for(
    labels: str | None,
    mismatch: str | None,
    labeled_classes: str | None,
    unlabeled_classes: str | None,
    seed: int,
    valid: int,
    protocol: str | None = None,
    shares: str | None = None,
    folds: int | None = None,
) -> list[Request]:
    """The requests of these options; empty if they name no split.

    Args:
        labels: `--labels`: numbers separated by commas, each for a split, in total or a class ("4/class"), or "all".
        mismatch: `--mismatch`: levels separated by commas; every level is combined with every number of labels.
        labeled_classes: `--labeled-classes`.
        unlabeled_classes: `--unlabeled-classes`.
        seed: of the draws.
        valid: number of validation images.
        protocol: `--protocol`, with every number of labels.
        shares: `--shares`: numbers separated by commas, each for a split.
        folds: `--folds`, of all labels.

    Raises:
        UsageError: `folds` is given with anything else; a list is not of whole numbers, or not of class names.
    """
    if folds is not None:
        if any(one is not None for one in (mismatch, labeled_classes, unlabeled_classes, protocol, shares)) or valid:
            raise UsageError("--folds holds a part of all labels out in turn", "nothing else can be asked for with it")
        if labels not in (None, "all"):
            raise UsageError(f"--labels {labels} cannot be given with --folds", "it divides all labels")
        return [Request(folds=folds)]
    levels = _numbers("--mismatch", mismatch, int)
    asked = Request(
        labeled_classes=_names("--labeled-classes", labeled_classes),
        unlabeled_classes=_names("--unlabeled-classes", unlabeled_classes),
        seed=seed,
        valid=valid,
        protocol=protocol,
    )
    if protocol is None and shares is not None:
        raise UsageError("--shares is of an open-set protocol", hint="--protocol fixed-known")
    if protocol is not None and mismatch is not None:
        raise UsageError(
            f"--mismatch cannot be given with --protocol {protocol}", hint="--protocol oliver is all levels"
        )
    requests = [_labelled(asked, word.strip()) for word in labels.split(",")] if labels else [asked]
    requests = [replace(request, mismatch=level) for level in levels for request in requests] or requests
    requests = [
        replace(one, share=share) for share in _numbers("--shares", shares, float) for one in requests
    ] or requests
    named = asked.labeled_classes or asked.unlabeled_classes or protocol
    return [] if requests == [asked] and not named else requests


def write_all(dataset: DatasetStore, requests: list[Request], name: str | None = None) -> list[Location]:
    """Draw and write splits; nothing is written unless all of them can be drawn.

    Args:
        dataset: the dataset store.
        requests: one for each split; one of an open-set protocol may stand for several.
        name: of the split store, if there is only one request; None: made from the request.
    """
    requests = [one for request in requests for one in completed(dataset, request)]
    if name is not None and len(requests) > 1:
        raise UsageError(
            f"--name {name} is one name for {len(requests)} splits", hint="leave --name out, or ask for one split"
        )
    return [write_split_store(dataset, split, name) for split in [draw_split(dataset, request) for request in requests]]


def write_standard(dataset: DatasetStore, seed: int, valid: int | None) -> tuple[list[Location], list[str]]:
    """Write the standard splits of a dataset; returns their locations, and why others are left out.

    Args:
        valid: number of validation images; None: by default of one's own images some, see `validation.default_valid`,
            which the names of the splits then do not say; of others none.
    """
    chosen = valid or 0
    if valid is None and dataset.manifest["source"] in OWN:
        chosen = default_valid(dataset)
    splits, left_out = draw_standard(dataset, dataset.manifest["protocol"], seed=seed, valid=chosen)
    if valid is None:
        splits = [replace(split, name=split.name.removesuffix(f"_valid{chosen}")) for split in splits]
    return [write_split_store(dataset, split) for split in splits], [why for _, why in left_out]


def write_split_store(dataset: DatasetStore, split: Split, name: str | None = None) -> Location:
    """Write a split store beside its dataset store, under the name of the split unless another is given."""
    names.require(dataset.name, "the dataset store's folder")  # by which the split store refers to it
    default = f"{dataset.name}_{split.name}"
    home = dataset.path if dataset.path.name == dataset.name else dataset.path.resolve()  # ".", or a link
    path = home.parent / names.require(default if name is None else name, "--name")
    content: dict[str, Any] = {
        "spec": split.description,
        "protocol": split.protocol,
        "seed": split.seed,
        "gamma": split.gamma,
        "class_names": split.class_names,
        "class_map": split.class_map.tolist(),
        "labeled_in_unlabeled": False,
        "counts": {array: len(getattr(split, array)) for array in ARRAYS},
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
    }
    write_split(path, content, {array: getattr(split, array) for array in ARRAYS})
    return path


def _labelled(asked: Request, word: str) -> Request:
    """The request with the number of labels of `--labels`."""
    number, slash, each = word.partition("/")
    if word == "all":
        return replace(asked, labels="all")
    if slash and each.strip() in _EACH and number.strip().isdecimal():
        return replace(asked, per_class=int(number))
    try:
        return replace(asked, labels=int(word))
    except ValueError:
        what = f"--labels {word}: not a number of labels"
        raise UsageError(what, hint="--labels 250,4000, --labels 4/class, or --labels all") from None


def _numbers(option: str, text: str | None, kind: type[N]) -> list[N]:
    try:
        return [kind(word) for word in text.split(",")] if text else []
    except ValueError:
        whole = kind is int
        hint = f"{option} {'250,4000' if whole else '0,0.5,1'}"
        raise UsageError(f"{option} {text}: not a list of {'whole ' * whole}numbers", hint=hint) from None


def _names(option: str, text: str | None) -> tuple[str, ...] | None:
    """The class names in a list; a name with a comma is quoted, as in CSV."""
    if text is None:
        return None
    try:
        (words,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        why = str(error) if isinstance(error, csv.Error) else ""
        hint = f"""{option} 'cat,"a name, with a comma"'"""
        raise UsageError(f"{option} {text}: not a list of class names", why, hint) from None
    return tuple(word for word in words if word.strip()) or None
