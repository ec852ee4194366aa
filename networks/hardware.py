"""The device that a network runs on, and whether it multiplies in bf16; what "auto" means."""

from __future__ import annotations

from typing import Literal

import torch

from stores.errors import UsageError


def kind(asked: str) -> Literal["cpu", "cuda"]:
    """What "cpu", "cuda" or "auto" means here: for "auto" a GPU if there is one."""
    return "cuda" if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()) else "cpu"


def usable(asked: str) -> Literal["cpu", "cuda"]:
    """As `kind`.

    Raises:
        UsageError: "cuda" on a machine without, or another name.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise UsageError(f"'--device {asked}' is no device", hint="auto, cpu or cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is usable", "torch.cuda.is_available() is false", "--device cpu uses the CPU")
    return kind(asked)


def multiplies_bf16(device: str) -> bool:
    """Whether bf16 is arithmetic of the device, not an emulation."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public name for these; without them fp32 is the safe answer
    probes = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(probe() for probe in probes if probe is not None)
