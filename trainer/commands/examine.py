"""What this machine offers a run: versions, devices, extras, and how fast it reads a store. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from importlib import metadata
from typing import Any

import numpy as np

import stores
from stores import DatasetStore, open_store
from stores.errors import install
from stores.storage.location import locate, stores_in

PACKAGES = ("torch", "numpy", "zarr", "numcodecs", "google-crc32c", "safetensors", "tensorboard", "typer", "rich")
EXTRAS = {  # module that must be there: which package it is in, by extra
    "data": (
        "realmix-data: sources and recipes",
        {
            "torchvision": "torchvision",
            "scipy": "scipy",
            "sklearn": "scikit-learn",
            "PIL": "pillow",
            "albumentations": "albumentations",
            "zstandard": "zstandard",
            "simplejpeg": "simplejpeg",
        },
    ),
    "predict": ("realmix-train predict: pictures of any kind", {"PIL": "pillow", "simplejpeg": "simplejpeg"}),
    "onnx": ("realmix-train export --onnx", {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}),
    "backbones": ("--model timm:NAME and torchvision:NAME", {"timm": "timm", "torchvision": "torchvision"}),
    "wandb": ("realmix-train --wandb", {"wandb": "wandb"}),
    "mlflow": ("realmix-train --mlflow", {"mlflow": "mlflow-skinny"}),
    "trackio": ("realmix-train --trackio", {"trackio": "trackio"}),
    "cloud": ("stores in object storage, s3://", {"obstore": "obstore"}),
    "ffcv": ("FFCV's files", {"ffcv": "ffcv"}),
    "dask": ("copies made by a cluster", {"dask": "dask", "distributed": "distributed"}),
}
READ_S = 2.0  # seconds that the read test lasts
READ_BYTES = 32 << 20  # decoded at a time


def examine(store: str | None) -> dict[str, Any]:
    """Everything that `realmix-train doctor` says.

    Args:
        store: to read from; None: the first store in ./stores, if there is one.

    Returns:
        versions, devices, extras, read (None without a store), install: commands that add what is missing.

    Raises:
        StoreError, IntegrityError: the store cannot be read.
    """
    extras = {name: _extra(purpose, modules) for name, (purpose, modules) in EXTRAS.items()}
    missing = [name for name, found in extras.items() if found["missing"]]
    return {
        "versions": versions(),
        "devices": devices(),
        "extras": extras,
        "read": read_test(store) if store is not None else _read_any(),
        "install": [install(name) for name in missing],
    }


def versions() -> dict[str, str]:
    """Of Python, this package and what it cannot do without."""
    return {"realmix": stores.__version__, "python": platform.python_version(), "system": platform.platform()} | {
        name: metadata.version(name) for name in PACKAGES
    }


def devices() -> list[dict[str, Any]]:
    """The CPU and every GPU: kind, name, memory_bytes, what convolutions are computed in."""
    import torch

    from networks import hardware
    from trainer.data.memory import free_memory

    cpu = torch.device("cpu")
    found: list[dict[str, Any]] = [
        {
            "kind": "cpu",
            "name": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "free_bytes": free_memory(cpu),
            "precision": "bf16" if hardware.multiplies_bf16("cpu") else "fp32",
        }
    ]
    for i in range(torch.cuda.device_count()):
        found.append(
            {
                "kind": "cuda",
                "name": torch.cuda.get_device_name(i),
                "free_bytes": free_memory(torch.device("cuda", i)),
                "precision": "bf16" if hardware.multiplies_bf16("cuda") else "fp32",
            }
        )
    return found


def read_test(path: str) -> dict[str, Any]:
    """Decode a store from its start, as the beginning of a run does, for a few seconds.

    Returns:
        store; what: "copies", or "images" where it holds none; images_per_s.
    """
    opened = open_store(path)
    dataset = opened if isinstance(opened, DatasetStore) else opened.dataset
    array = dataset.train_images if dataset.copies is None else dataset.copies
    row_bytes = int(np.prod(array.shape[1:]))
    rows = min(len(array), max(1, READ_BYTES // row_bytes))
    done, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < READ_S:
        array.read((done + np.arange(rows)) % len(array))
        done += rows
    what, each = ("copies", dataset.num_copies) if dataset.num_copies else ("images", 1)
    return {"store": str(opened.path), "what": what, "images_per_s": done * each / seconds}


def _read_any() -> dict[str, Any] | None:
    found = stores_in(locate("stores"))
    return read_test(str(found[0])) if found else None


def _extra(purpose: str, modules: dict[str, str]) -> dict[str, Any]:
    missing = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
    return {"purpose": purpose, "missing": missing}
