"""The device that a network runs on, and whether it multiplies in bf16; what "auto" means."""

from __future__ import annotations

from typing import Literal

import torch

from stores.errors import UsageError

Device = Literal["cpu", "cuda", "mps"]


def kind(asked: str) -> Device:
    """What a device's name means here: "auto" is a CUDA GPU if there is one; Apple's must be asked for."""
    if asked == "mps":
        return "mps"
    return "cuda" if asked == "cuda" or (asked == "auto" and torch.cuda.is_available()) else "cpu"


def usable(asked: str) -> Device:
    """As `kind`.

    Raises:
        UsageError: "cuda" or "mps" on a machine without, or another name.
    """
    if asked not in ("auto", "cpu", "cuda", "mps"):
        raise UsageError(f"'--device {asked}' is no device", hint="auto, cpu, cuda or mps")
    if asked == "mps" and not torch.backends.mps.is_available():
        why = "torch.backends.mps.is_available() is false"
        raise UsageError("no GPU of Apple's is usable", why, "--device cpu uses the CPU")
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is usable", "torch.cuda.is_available() is false", "--device cpu uses the CPU")
    return kind(asked)


def multiplies_bf16(device: str) -> bool:
    """Whether bf16 is arithmetic of the device, not an emulation."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps":
        return False
    # torch has no public name for these; without them fp32 is the safe answer
    probes = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(probe() for probe in probes if probe is not None)
