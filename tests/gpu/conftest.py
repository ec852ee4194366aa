"""Tests of what a GPU does, against the CPU and against plain fp32. Collected where there is one.

`REALMIX_TEST_DEVICE=cpu pytest tests/gpu` runs them on a CPU, to check the tests themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(os.environ.get("REALMIX_TEST_DEVICE", "cuda"))


@pytest.fixture(scope="session")
def split(tiny: Path) -> Path:
    return tiny.with_name("tiny_20")


@pytest.fixture(scope="session")
def command(split: Path, device: torch.device) -> Callable[..., list[str]]:
    """The words of a run in a process of its own: what the compiler imports warns of itself."""

    def words(runs: Path, name: str, steps: int, settings: dict[str, Any], *more: str) -> list[str]:
        made = [sys.executable, "-m", "trainer", "--store", split, "--runs", runs, "--name", name]
        made += [
            "--steps",
            steps,
            "--device",
            device.type,
            "--model",
            "wrn-10-1",
            "--batch",
            8,
            "--threads",
            1,
            "--quiet",
            *more,
        ]
        settings = {"tensorboard": "false", "log_every": 1, "eval_every": steps, "rampup_steps": 50} | settings
        if "--method" in more and more[more.index("--method") + 1] == "fixmatch":
            del settings["rampup_steps"]
        return [str(word) for word in made] + [
            word for key, value in settings.items() for word in ("--set", f"{key}={value}")
        ]

    return words
