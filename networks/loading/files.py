"""Weights from files of anybody: .safetensors, and .pth as `torch.save` writes them. Neither can run code here."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from stores.errors import IntegrityError, StoreError, UsageError, out_of_memory

WRAPPERS = ("state_dict", "model", "model_state_dict")  # keys under which training scripts keep a network's tensors

OWN = "backbone.net."  # what a fine-tuned run puts before these names in its model.safetensors


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        StoreError: there is no such file.
        UsageError: it is of another kind.
        IntegrityError: it is damaged, holds something that is no tensor, or a number that is not finite.
    """
    if not path.is_file():
        raise StoreError(f"'{path}' does not exist", "it is to hold a network's weights", "--weights takes a file")
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise UsageError(f"'{path}' is no file of weights", "its name ends otherwise", "a .safetensors or .pth file")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    of_a_run = {key.removeprefix(OWN): tensor for key, tensor in tensors.items() if key.startswith(OWN)}
    tensors = of_a_run or tensors
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise IntegrityError(f"'{path}' is damaged", f"'{name}' holds a number that is not finite")
    return tensors


def fill(net: nn.Module, tensors: Mapping[str, Tensor], name: str, path: Path, classifier: Sequence[str]) -> None:
    """Load a file's tensors into a network.

    Args:
        net: the network without its classifier.
        tensors: what `read` gave.
        name: of the network, for errors.
        path: of the file, for errors.
        classifier: modules whose tensors the file may have besides.

    Raises:
        UsageError: a tensor is missing, too many, or of another shape.
    """
    own = net.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # older files lack them
    wanted = {key: tuple(tensor.shape) for key, tensor in own.items()}
    above = tuple(f"{module}." for module in classifier)
    found = {key: tuple(t.shape) for key, t in tensors.items() if key in own or not key.startswith(above)}
    differing = sorted(key for key in (wanted.keys() | found.keys()) - counters if wanted.get(key) != found.get(key))
    if differing:
        key = differing[0]
        there, here = (shapes.get(key, "missing") for shapes in (found, wanted))
        raise UsageError(
            f"'{path}' holds no weights of {name}",
            f"{len(differing)} tensors differ: '{key}' is {there} there, and {here} in the network",
            "--model must name the network that the file was made with",
        )
    net.load_state_dict({key: tensors[key] for key in own if key in tensors}, strict=False)


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, in the order of the names, however a file keeps them."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch does not have
        raise IntegrityError(f"'{path}' is damaged", f"it is no whole safetensors file: {error}") from None


def _pickled(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to load it all the same, which would run what it holds
        why = "it holds more than tensors, and may run code when it is read"
        raise IntegrityError(f"'{path}' is not read", why, "convert it to .safetensors where you trust it") from None
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        if out_of_memory(error):
            raise
        raise IntegrityError(f"'{path}' is damaged", str(error).split("\n")[0]) from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    good = isinstance(content, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    if not good or not content:
        raise IntegrityError(f"'{path}' holds no network's weights", "it is no dictionary of tensors")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}  # DistributedDataParallel's prefix
