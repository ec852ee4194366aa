"""The machine that a run gets: device, threads, and the arithmetic of its convolutions; what "auto" means."""

from __future__ import annotations

import dataclasses
import platform

import torch

from stores.errors import UsageError
from trainer.config import RunConfig


def resolve(run: RunConfig) -> RunConfig:
    """Fill in device, threads and precision; torch uses that many threads from here on.

    bf16 wherever the hardware multiplies in bf16. It pays even for small nets: a RealMix step took 25 against 30 ms
    with WRN-10-1 on 8×8 digits, 0.23 against 0.44 s with WRN-10-2 at 32×32 (2 cores with AMX). On the CPU a run repeats
    bit for bit with the same number of threads only, so that number is part of the configuration.

    Raises:
        UsageError: --device cuda on a machine without.
    """
    cuda = torch.cuda.is_available()
    if run.device == "cuda" and not cuda:
        raise UsageError(
            "no CUDA device is usable", "torch.cuda.is_available() is false", "--device cpu trains on the CPU"
        )
    device = run.device if run.device != "auto" else "cuda" if cuda else "cpu"
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    precision = run.precision if run.precision != "auto" else "bf16" if multiplies_bf16(device) else "fp32"
    return dataclasses.replace(run, device=device, threads=torch.get_num_threads(), precision=precision)


def multiplies_bf16(device: str) -> bool:
    """Whether bf16 is arithmetic of the device, not an emulation."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public name for these; without them fp32 is the safe answer
    probes = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(probe() for probe in probes if probe is not None)


def describe(run: RunConfig) -> dict[str, str | int | None]:
    """The device of a resolved configuration, for the run's record."""
    name = torch.cuda.get_device_name() if run.device == "cuda" else platform.processor() or platform.machine()
    return {"kind": run.device, "name": name, "threads": run.threads, "system": platform.platform()}
