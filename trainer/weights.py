"""Trained weights as one safetensors file: averaged parameters and BatchNorm statistics, float32, plain names.

Nothing in such a file can run code; its metadata says which network it is, its classes, and how pixels are scaled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from stores import manifest

FILE = "model.safetensors"
INPUT = "uint8 RGB × 2/255 − 1, NCHW"


def export(folder: Path, model: nn.Module, name: str, class_names: Sequence[str]) -> None:
    """Write `model` to `folder`/model.safetensors, atomically; the same weights give the same bytes.

    Args:
        model: the evaluated network, see `Ema.apply_to`.
        name: of the network, as `build_model` takes it.
        class_names: in the order of its outputs.
    """
    tensors = {
        key.replace("_orig_mod.", ""): value.detach().to("cpu", torch.float32).contiguous()
        for key, value in model.state_dict().items()
    }
    metadata = {
        "model": name,
        "num_classes": str(len(class_names)),
        "class_names": json.dumps(list(class_names)),
        "input": INPUT,
    }
    manifest.write_atomically(folder / FILE, _in_order(safetensors.torch.save(tensors, metadata)))


def _in_order(data: bytes) -> bytes:
    """The file with its header's keys sorted: safetensors writes the metadata in an order of chance."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]
