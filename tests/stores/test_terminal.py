"""Whoever reads what a command prints may go away; the command does its work, and its exit code says how that went."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import pathlib, sys
from rich.console import Console
from stores import errors
from stores.system import terminal
def main():
    sys.stdin.readline()
    for stream in (sys.stdout, sys.stderr):
        for i in range(3):
            print("a line", file=stream, flush=True)
    Console(stderr=True).print("a line")
    print("held back", end="")
    pathlib.Path("done" if terminal.is_lost(sys.stdout) else "read").touch()
    {end}
errors.run(main)
"""


def start(where: Path, out: int, err: int, end: str = "pass") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT.format(end=end)]
    return subprocess.Popen(command, cwd=where, stdin=subprocess.PIPE, stdout=out, stderr=err)


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("raise errors.IntegrityError('damaged')", 4)])
def test_a_reader_that_goes_away_ends_nothing(tmp_path, kind, end, code):
    ours, theirs = os.pipe() if kind == "pipe" else os.openpty()
    process = start(tmp_path, theirs, theirs, end)
    os.close(theirs)
    os.close(ours)
    process.communicate(b"\n", timeout=50)
    assert process.returncode == code
    assert (tmp_path / "done").exists()


def test_output_that_is_read_is_not_lost(tmp_path):
    process = start(tmp_path, subprocess.PIPE, subprocess.DEVNULL)
    out, _ = process.communicate(b"\n", timeout=50)
    assert (process.returncode, out) == (0, b"a line\n" * 3 + b"held back")
    assert (tmp_path / "read").exists()


def test_a_full_disk_behind_the_messages_ends_nothing(tmp_path):
    with Path("/dev/full").open("w") as full:
        process = start(tmp_path, subprocess.DEVNULL, full.fileno())
        process.communicate(b"\n", timeout=50)
    assert process.returncode == 0
    assert (tmp_path / "read").exists()


@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_behind_the_output_is_told(tmp_path, buffered):
    script = f"from stores import errors; errors.run(lambda: print('x', flush={not buffered}))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 5
    assert done.stderr.startswith("error: the disk is full")
    assert len(done.stderr.splitlines()) == 2
