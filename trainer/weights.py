"""Trained weights as one safetensors file: averaged parameters and BatchNorm statistics, float32, plain names.

Nothing in such a file can run code; its metadata says which network it is, its classes, the size of its images and how
pixels are scaled, so that it can be used without its run. Heads that only training needs are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from stores import manifest
from stores.errors import IntegrityError, StoreError
from trainer import checkpoint
from trainer.models import HEADS, build_model
from trainer.run import Run, open_run

FILE = "model.safetensors"
ONLY_TRAINED = HEADS[1:]  # what a network has beside its classes' head
INPUT = "uint8 RGB × 2/255 − 1, NCHW"


@dataclass
class Trained:
    """A network ready to be used.

    Attributes:
        model: in evaluation mode, without gradients, on the CPU; images float32 [n, 3, H, W] in [−1, 1] to logits.
        name: of the network, as `build_model` takes it.
        class_names: in the order of its outputs.
        image_size: (H, W) of the images that it was trained on.
        range: the numbers that were black and white in pictures of more than 8 bits; None: those of their type.
    """

    model: nn.Module
    name: str
    class_names: list[str]
    image_size: tuple[int, int]
    range: tuple[float, float] | None = None


def export(
    folder: Path, model: nn.Module, name: str, class_names: Sequence[str], image_size: tuple[int, int],
    range_: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    """Write `model` to `folder`/model.safetensors, atomically; the same weights give the same bytes.

    Args:
        model: the evaluated network, see `Ema.apply_to`; the rest as in `Trained`.
    """
    tensors = {
        key: value.detach().to("cpu", torch.float32).contiguous() for key, value in _plain(model.state_dict()).items()
    }
    metadata = {
        "model": name,
        "num_classes": str(len(class_names)),
        "class_names": json.dumps(list(class_names)),
        "image_size": json.dumps(list(image_size)),
        "input": INPUT,
    }
    if range_ is not None:
        metadata["range"] = json.dumps(list(range_))
    manifest.write_atomically(folder / FILE, _in_order(safetensors.torch.save(tensors, metadata)))


def load(path: Path | str) -> Trained:
    """The network of a safetensors file that `export` wrote.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        StoreError: there is none, or it is not one of ours.
        IntegrityError: it is damaged.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        with safetensors.safe_open(path, "pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise StoreError(f"there is no '{path}'", "a run writes it when it is finished") from None
    except safetensors.SafetensorError as error:
        raise IntegrityError(f"'{path}' is damaged", str(error)) from None
    try:
        names, (height, width) = json.loads(said["class_names"]), json.loads(said["image_size"])
        name, range_ = said["model"], as_range(json.loads(said.get("range", "null")), str(path))
    except (KeyError, ValueError) as error:
        raise StoreError(
            f"'{path}' does not say which network it is", f"its metadata is not what this version writes: {error}"
        ) from None
    return replace(_trained(tensors, name, names, (height, width), str(path)), range=range_)


def find(path: Path) -> Trained:
    """The network of a run's folder, or of a safetensors file or a folder with one, as `export` writes it.

    Raises:
        StoreError, IntegrityError: there is none, see `load` and `of_run`.
    """
    if path.is_file() or ((path / FILE).is_file() and not (path / "config.json").is_file()):
        return load(path)
    return of_run(open_run(path))


def of_run(run: Run, averaged: bool = True) -> Trained:
    """The network of a run, finished or not: averaged weights with the live BatchNorm statistics, or the live weights.

    Raises:
        StoreError: the run has no checkpoint to take them from.
        IntegrityError: a file of the run is damaged.
    """
    if averaged and (run.path / FILE).is_file():
        return load(run.path)
    content = checkpoint.read(run.path, torch.device("cpu"))
    tensors = content["model"] | (content["ema"] if averaged else {})
    where = str(run.path / checkpoint.FILE)
    store: dict[str, Any] = run.config["store"]
    if "image_size" not in store:
        raise StoreError(f"'{run.path}' was written by another version of realmix", "it does not say its images' size")
    height, width = store["image_size"]
    trained = _trained(tensors, run.config["run"]["model"], store["class_names"], (height, width), where)
    return replace(trained, range=as_range(store.get("range"), where))


def _trained(
    tensors: dict[str, Tensor], name: str, class_names: list[str], size: tuple[int, int], where: str
) -> Trained:
    model = build_model(name, len(class_names))
    try:
        model.load_state_dict(_plain(tensors))
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise IntegrityError(f"'{where}' does not hold the weights of {name}", why) from None
    return Trained(model.eval().requires_grad_(False), name, class_names, size)


def as_range(found: object, where: str) -> tuple[float, float] | None:
    """`Trained.range` as JSON has it.

    Raises:
        StoreError: neither null nor two numbers, the smaller one first.
    """
    match found:
        case None:
            return None
        case [int() | float() as low, int() | float() as high] if low < high:
            return float(low), float(high)
    raise StoreError(f"'{where}' says a range that is none", "it must be two numbers, the smaller one first")


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the names that torch.compile adds, and without what only training needs."""
    plain = {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}
    return {key: value for key, value in plain.items() if key.split(".")[0] not in ONLY_TRAINED}


def _in_order(data: bytes) -> bytes:
    """The file with its header's keys sorted: safetensors writes the metadata in an order of chance."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]
