"""Runs a trainer's command, and reads the losses that it wrote."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]
