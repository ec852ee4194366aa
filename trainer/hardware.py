"""The machine that a run gets: device, threads, and the arithmetic of its convolutions; what "auto" means."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import shutil
from typing import TypeVar

import torch

from networks.hardware import multiplies_bf16, usable
from trainer import distributed
from trainer.config import Resolved, RunConfig

R = TypeVar("R", bound=RunConfig)
COMPILED_FROM = {"cpu": 5000, "cuda": 500}  # steps


def resolve(run: R) -> R:
    """Fill in device, threads and precision; torch uses that many threads from here on.

    bf16 wherever the hardware multiplies in bf16. It pays even for small nets: a RealMix step took 25 against 30 ms
    with WRN-10-1 on 8×8 digits, 0.23 against 0.44 s with WRN-10-2 at 32×32 (2 cores with AMX). On the CPU a run repeats
    bit for bit with the same number of threads only, so that number is part of the configuration.

    Raises:
        UsageError: --device cuda or mps on a machine without.
    """
    device = usable(run.device)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    precision = run.precision if run.precision != "auto" else "bf16" if multiplies_bf16(device) else "fp32"
    engine = (
        run.engine if run.engine != "auto" else "compiled" if compiling_pays(device, precision, run.steps) else "eager"
    )
    graph = run.cuda_graph and device == "cuda" and engine == "compiled" and distributed.world() == 1
    return dataclasses.replace(
        run, device=device, threads=torch.get_num_threads(), precision=precision, engine=engine, cuda_graph=graph
    )


def device(run: RunConfig) -> torch.device:
    """The device of this process: each of several on one machine has a GPU of its own."""
    if run.device != "cuda":
        return torch.device(run.device)
    torch.cuda.set_device(distributed.local_rank())
    return torch.device("cuda", distributed.local_rank())


def compiling_pays(device: str, precision: str, steps: int) -> bool:
    """Whether the compiler is there, and the run long enough to earn back the minute that it takes.

    On a CPU in bf16 a step takes .51 instead of .63 s (WRN-28-2, AMX); in fp32 it is all convolutions, 2.2 s both ways.
    """
    if device not in COMPILED_FROM or (device == "cpu" and precision == "fp32"):
        return False
    compiler = importlib.util.find_spec("triton") if device == "cuda" else shutil.which("g++")
    return compiler is not None and steps >= COMPILED_FROM[device]


def describe(run: Resolved) -> dict[str, str | int | None]:
    """The device of a resolved configuration, for the run's record."""
    name = torch.cuda.get_device_name() if run.device == "cuda" else platform.processor() or platform.machine()
    return {"kind": run.device, "name": name, "threads": run.threads, "system": platform.platform()}
