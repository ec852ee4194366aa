"""Contestants in processes of their own, in rounds (A B C, A B C …), so that a machine whose speed drifts slows all.

A contestant prints one JSON object as its last line. Ratios are taken within a round, then their median.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]


def run(script: str, names: Iterable[str], rounds: int, words: list[str]) -> dict[str, list[Result]]:
    """`script --only NAME words…` for every name in every round: the results of each name, round by round."""
    results: dict[str, list[Result]] = {name: [] for name in names}
    for round_ in range(rounds):
        for name, runs in results.items():
            runs.append(ask(script, ["--only", name, *words]))
            say(f"round {round_ + 1}: {name}: {runs[-1]['note']}")
    return results


def words(options: argparse.Namespace, *keys: str) -> list[str]:
    """The options of these names as a command line, without those that are None."""
    given = {key: getattr(options, key) for key in keys}
    return [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def ask(script: str, words: list[str]) -> Result:
    """What one process says, its last line decoded.

    Raises:
        SystemExit: it failed; what it wrote is shown.
    """
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: Iterable[float], digits: int = 0) -> str:
    """Median [min–max]."""
    values = list(values)
    numbers = (statistics.median(values), min(values), max(values))
    middle, low, high = (f"{number:,.{digits}f}" for number in numbers)
    return f"{middle} [{low}–{high}]" if len(values) > 1 else middle


def ratio(runs: list[Result], others: list[Result] | None, key: str) -> str:
    """How many times as large the one's `key` is as the other's, within a round, over the rounds."""
    if not others:
        return "–"
    values = [run[key] / other[key] for run, other in zip(runs, others, strict=True)]
    return spread(values, 2 if max(values) >= 0.1 else 4)


def machine(packages: Iterable[str]) -> str:
    """Processors, operating system and versions, for the line above a table."""
    facts = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in facts.read_text().splitlines() if line.startswith("model name")]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    system = f"{len(models)} processors ({models[0]}), Python {platform.python_version()}, {versions}"
    return system + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")


def table(columns: list[str], rows: Iterable[list[str]]) -> None:
    """Print Markdown."""
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
