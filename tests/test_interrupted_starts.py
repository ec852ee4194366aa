"""A signal in the first moments of a command, while its libraries are being imported, ends it as any other does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = {
    "train": "trainer --store {split} --method supervised --model wrn-10-1 --batch 4 --steps 100000 --device cpu",
    "build": "pipeline build arrays {arrays} --copies 2000 --root {here} --name new",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_signal_at_any_moment_of_the_start_is_heard(tiny: Path, tmp_path: Path, command: str) -> None:
    import numpy as np

    np.savez(tmp_path / "many.npz", images=np.zeros((5000, 32, 32, 3), np.uint8), labels=np.arange(5000) % 2)
    words = command.format(split=tiny.with_name("tiny_20"), arrays=tmp_path / "many.npz", here=tmp_path).split()
    for number, seconds in ((signal.SIGTERM, 0.3), (signal.SIGHUP, 0.8), (signal.SIGTERM, 1.3)):
        folder = tmp_path / str(seconds)  # a fast machine has made the run's directory by then: a new run each time
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", *words, "--quiet"], cwd=folder, stderr=subprocess.PIPE, text=True
        )
        time.sleep(seconds)
        process.send_signal(number)
        _, said = process.communicate(timeout=90)
        assert process.returncode in (130, -number), said
        assert "Traceback" not in said
        assert "Exception ignored" not in said
    assert not list(tmp_path.rglob("result.json"))


def test_a_signal_while_the_first_step_is_compiled_does_not_wait_for_the_compiler(tiny: Path, tmp_path: Path) -> None:
    words = f"trainer --store {tiny.with_name('tiny_20')} --method supervised --model wrn-10-1 --batch 4 --steps 100000"
    process = subprocess.Popen(
        [sys.executable, "-m", *words.split(), "--device", "cpu", "--engine", "compiled", "--name", "one"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    while not said.startswith("run in"):
        said = process.stderr.readline()
        assert said, "it ended by itself"
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=90)
    assert (process.returncode, said) == (
        130,
        "error: interrupted\n→ continue with `realmix-train --resume runs/one`\n",
    )
    assert (tmp_path / "runs" / "one" / "checkpoint.pt").is_file()
