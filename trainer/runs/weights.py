"""Trained weights as one safetensors file: averaged parameters and BatchNorm statistics, float32, plain names.

Nothing in such a file can run code; its metadata says which network it is, its classes, the size of its images and how
pixels are scaled, so that it can be used without its run. Heads that only training needs are left out. `sha256` in the
metadata is the SHA-256 of the whole file with 64 zeros in its place: the file proves itself, wherever it is moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from networks.build import build_model
from networks.embedded import from_images, linear
from networks.head import Head
from networks.network import BACKBONE, CLASSIFIER
from networks.pretrained import Pretrained
from stores.errors import IntegrityError, StoreError, UsageError
from stores.format import manifest
from trainer.runs import checkpoint, fields
from trainer.runs.run_dir import Run, damaged, open_run, read_bytes

FILE = "model.safetensors"
BELOW = "backbone.net."  # where a network on embeddings has the tensors of the backbone, if it has them
NO_DIGEST = "0" * 64
INPUT = "uint8 RGB × 2/255 − 1, NCHW"
EMBEDDINGS = "embeddings, standardised"


@dataclass
class Trained:
    """A network ready to be used.

    Attributes:
        model: in evaluation mode, without gradients, on the CPU; images float32 [n, 3, H, W] in [−1, 1] to logits.
        name: of the network, as `build_model` takes it.
        class_names: in the order of its outputs.
        image_size: (H, W) of the images that it was trained on.
        range: the numbers that were black and white in pictures of more than 8 bits; None: those of their type.
        input_size: side to which a backbone of timm or torchvision resizes images; None of other networks.
        embedding: of a model that reads embeddings in the place of images, what made them: backbone, weights,
            weights_sha256, size and num_features; None: it reads images.
        made_with: the same of a model of which the backbone is a part.
    """

    model: nn.Module
    name: str
    class_names: list[str]
    image_size: tuple[int, int]
    range: tuple[float, float] | None = None
    input_size: int | None = None
    embedding: dict[str, Any] | None = None
    made_with: dict[str, Any] | None = None


def export(
    folder: Path,
    model: nn.Module,
    name: str,
    class_names: Sequence[str],
    image_size: tuple[int, int],
    range_: tuple[float, float] | None = None,
    embedding: Mapping[str, Any] | None = None,
) -> None:
    """Write `model` to `folder`/model.safetensors, atomically; the same weights give the same bytes.

    Args:
        model: the evaluated network, see `Ema.apply_to`; the rest as in `Trained`.
        embedding: what made the embeddings that it reads, itself or the part above its backbone; None: it reads images.
    """
    tensors = {
        key: value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in _plain(model.state_dict(), embedding is not None).items()
    }
    metadata = {
        "model": name,
        "num_classes": str(len(class_names)),
        "class_names": json.dumps(list(class_names)),
        "image_size": json.dumps(list(image_size)),
        "input": INPUT,
    }
    if isinstance(model, Pretrained):
        metadata |= {"input_size": str(model.backbone.size), "preprocessing": json.dumps(model.backbone.preprocessing)}
    if embedding is not None:
        metadata |= {"input": EMBEDDINGS, "embedding": json.dumps(dict(embedding), sort_keys=True)}
    if range_ is not None:
        metadata["range"] = json.dumps(list(range_))
    write(folder / FILE, tensors, metadata)


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that proves itself, atomically; the same tensors give the same bytes.

    Args:
        tensors: by name, on the CPU, contiguous.
        metadata: what the file says of itself; `sha256` is added.
    """
    data = _in_order(safetensors.torch.save(tensors, {**metadata, "sha256": NO_DIGEST}))
    digest = hashlib.sha256(data).hexdigest()
    empty, sealed = (f'"sha256":"{one}"'.encode() for one in (NO_DIGEST, digest))
    manifest.write_atomically(path, data.replace(empty, sealed, 1))


@dataclass(frozen=True)
class Content:
    """A safetensors file that has been checked.

    Attributes:
        tensors: by name, all their numbers finite.
        metadata: what the file says of itself; empty in files of others.
        sha256: of the file's bytes.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def read(path: Path) -> Content:
    """The tensors of a safetensors file, anybody's; its own checksum is compared if it has one.

    Raises:
        FileNotFoundError: it is not there.
        IntegrityError: it is damaged.
    """
    data = read_bytes(path)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch does not have
        raise IntegrityError(
            f"'{path}' is damaged",
            f"it is no safetensors file, or not a whole one: {error}",
            "a finished run has one as model.safetensors",
        ) from None
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    own = metadata.get("sha256")
    if own is not None:
        digest = hashlib.sha256(data.replace(own.encode(), NO_DIGEST.encode(), 1)).hexdigest()
        if digest != own:
            raise damaged(path, "it is not what its own checksum says")
    require_finite(tensors, path)
    return Content(tensors, metadata, hashlib.sha256(data).hexdigest())


def require_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Raises IntegrityError if a weight is not a number."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():  # as float32, as it is used
            raise damaged(path, f"'{name}' holds a number that is not finite")


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
        content = read(path)
    except FileNotFoundError:
        raise StoreError(f"there is no '{path}'", "a run writes it when it is finished") from None
    said: dict[str, Any] = {"model": content.metadata.get("model")}
    for name in ("class_names", "image_size", "range", "input_size", "embedding"):
        try:
            said[name] = json.loads(content.metadata.get(name, "null"))
        except (ValueError, RecursionError):
            said[name] = "no JSON"
    if wrong := fields.wrong_weights(said):
        raise StoreError(
            f"'{path}' does not say which network it is", f"wrong or missing in its metadata: {', '.join(wrong)}"
        )
    network, about = (said["model"], said["input_size"]), (said["class_names"], said["image_size"], path)
    return _trained(content.tensors, network, *about, said["range"], said["embedding"])


def find(path: Path) -> Trained:
    """The network of a run's folder, or of a safetensors file or a folder with one, as `export` writes it.

    Raises:
        StoreError, IntegrityError: there is none, see `load` and `of_run`.
    """
    if path.is_file() or ((path / FILE).is_file() and not (path / "config.json").is_file()):
        return load(path)
    return of_run(open_run(path))


def of_run(run: Run, averaged: bool = True, heads: Sequence[Head] = ()) -> Trained:
    """The network of a run, finished or not: averaged weights with the live BatchNorm statistics, or the live weights.

    Args:
        heads: that it keeps besides the classifier; they are in the run's checkpoint alone.

    Raises:
        StoreError: the run has no checkpoint to take them from.
        IntegrityError: a file of the run is damaged.
    """
    name, store = run.config["run"]["model"], run.config["store"]
    if averaged and not heads and (run.path / FILE).exists():
        run.require_own(FILE)
        found = load(run.path)
        if (found.name, found.class_names) != (name, store["class_names"]):
            raise damaged(run.path / FILE, f"it holds a {found.name} of another run")
        return found
    path = run.path / checkpoint.FILE
    content = checkpoint.read_own(run.path, checkpoint.identity(run.config))
    if store.get("image_size") is None:
        raise StoreError(f"'{run.path}' was written by another version of realmix", "it does not say its images' size")
    tensors = content["model"] | (content["ema"] if averaged else {})
    network, said = (name, run.config["run"].get("input_size")), (store["class_names"], store["image_size"], path)
    return _trained(tensors, network, *said, store.get("range"), store.get("embedding"), heads)


def _trained(
    tensors: dict[str, Tensor],
    network: tuple[str, int | None],
    class_names: list[str],
    size: list[int],
    path: Path,
    range_: list[float] | None,
    embedding: dict[str, Any] | None,
    heads: Sequence[Head] = (),
) -> Trained:
    """Raises StoreError or IntegrityError before memory is taken for a network that the tensors do not fill."""
    (name, side), (height, width) = network, size
    black_white = None if range_ is None else (range_[0], range_[1])
    if embedding is not None:
        require_finite(tensors, path)
        own = _plain(tensors, on_embeddings=True, heads=heads)
        model, whole = _on_embeddings(own, name, len(class_names), embedding, path, heads)
        made: dict[str, Any] = {"made_with" if whole else "embedding": embedding}
        return Trained(model.eval().requires_grad_(False), name, class_names, (height, width), black_white, **made)
    tensors = _plain(tensors, heads=heads)
    try:
        with torch.device("meta"):
            expected = _plain(build_model(name, len(class_names), heads=heads, size=side).state_dict(), heads=heads)
    except UsageError as error:
        if error.hint.startswith("pip install"):
            raise
        raise StoreError(f"'{path}' holds a network that this version does not know", error.what) from None
    differing = [
        key for key in sorted(expected.keys() | tensors.keys()) if _shape(expected, key) != _shape(tensors, key)
    ]
    if differing:
        key = differing[0]
        why = f"'{key}' is {_shape(tensors, key) or 'missing'}, and in a {name} of {len(class_names)} classes "
        raise damaged(path, why + str(_shape(expected, key) or "there is none"))
    require_finite(tensors, path)
    model = build_model(name, len(class_names), heads=heads, size=side)
    model.load_state_dict(tensors)
    return Trained(model.eval().requires_grad_(False), name, class_names, (height, width), black_white, side)


def _on_embeddings(
    tensors: dict[str, Tensor],
    name: str,
    num_classes: int,
    embedding: dict[str, Any],
    path: Path,
    heads: Sequence[Head] = (),
) -> tuple[nn.Module, bool]:
    """A network on embeddings, with its backbone if that is among the tensors; and whether it is."""
    own = {key: value for key, value in tensors.items() if not key.startswith(BELOW)}
    try:
        network = linear.of_tensors(name, own, heads)
        fits = (network.mean.numel(), network.num_classes) == (embedding["num_features"], num_classes)
    except (KeyError, RuntimeError, ValueError, IndexError, UsageError) as error:
        raise damaged(path, f"it holds no network '{name}': {str(error).splitlines()[0]}") from None
    if not fits:
        raise damaged(path, "its network is not of these classes or embeddings")
    backbone = {key.removeprefix(BELOW): value for key, value in tensors.items() if key.startswith(BELOW)}
    if not backbone:
        return network, False
    return from_images.of_tensors(network, embedding, backbone), True


def _shape(tensors: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    """Of a tensor of real numbers; None if there is none of this name."""
    tensor = tensors.get(key)
    return tuple(tensor.shape) if tensor is not None and tensor.is_floating_point() else None


def _plain(tensors: dict[str, Tensor], on_embeddings: bool = False, heads: Sequence[Head] = ()) -> dict[str, Tensor]:
    """Without the names that torch.compile adds, and without what only training needs, but for these heads."""
    kept = {*(linear.PARTS if on_embeddings else (*BACKBONE, CLASSIFIER)), *(head.name for head in heads)}
    if on_embeddings:
        plain = {key.removeprefix("network."): value for key, value in tensors.items()}
        return {key: value for key, value in plain.items() if key.split(".")[0] in kept or key.startswith(BELOW)}
    plain = {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}
    return {key: value for key, value in plain.items() if key.split(".")[0] in kept}


def _in_order(data: bytes) -> bytes:
    """The file with its header's keys sorted: safetensors writes the metadata in an order of chance."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]
