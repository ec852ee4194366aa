"""What Linux alone has is not needed: both commands run without it, and Apple's GPUs are asked for by name."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from networks import hardware
from stores.errors import UsageError
from stores.system import process
from trainer import api
from trainer.data.split import open_split
from trainer.hardware import compiling_pays

ELSEWHERE = """
import builtins, io, os, signal
from pathlib import Path

for name in ("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise", "memfd_create", "sendfile"):
    if hasattr(os, name):
        delattr(os, name)
os.sysconf = lambda name, known=os.sysconf: known({"SC_PHYS_PAGES": name, "SC_PAGE_SIZE": name}[name])
os.fork = None  # whatever forks fails


def hidden(call):
    def without(path, *more, **options):
        if isinstance(path, (str, Path)) and str(path).startswith(("/proc/", "/sys/", "/dev/shm")):
            raise FileNotFoundError(2, "no such file", str(path))
        return call(path, *more, **options)

    return without


for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat"), (os, "listdir"), (os, "scandir")):
    setattr(module, name, hidden(getattr(module, name)))
"""
RUN = """
import sys
import pipeline.cli, trainer.cli

if __name__ == "__main__":
    for main, words in (
        (pipeline.cli.main, ["build", "arrays", "mine.npz", "--copies", "2", "--labels", "12", "--name", "x"]),
        (pipeline.cli.main, ["verify", "stores/x", "--deep"]),
        (trainer.cli.main, sys.argv[1:]),
    ):
        sys.argv = ["realmix", *words]
        try:
            main()
        except SystemExit as end:
            assert not end.code, words
"""


def test_both_commands_run_without_what_linux_alone_has(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", images=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), labels=np.arange(60) % 3)
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE + RUN)
    words = ["--store", "stores/x_12", "--model", "wrn-10-1", "--steps", "2", "--batch", "4"]
    words += ["--feed", "mapped", "--name", "run", "--quiet"]
    command = [sys.executable, str(tmp_path / "elsewhere.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "run" / "result.json").is_file()


def test_what_a_process_has_is_said_by_other_systems_too(monkeypatch):
    monkeypatch.delattr(process.os, "sched_getaffinity")
    assert process.cores() == process.os.cpu_count()
    monkeypatch.setattr(process.resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": 7}))
    assert process.peak_memory() == 7 * 1024
    monkeypatch.setattr(process.sys, "platform", "darwin")
    assert process.peak_memory() == 7


def test_apples_gpus_are_used_when_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU of Apple's"):
        hardware.usable("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [hardware.usable(name) for name in ("mps", "auto", "cpu")] == ["mps", "cpu", "cpu"]
    assert not hardware.multiplies_bf16("mps")
    assert not compiling_pays("mps", "fp32", 10**6)


def test_strong_views_on_apples_gpus_are_refused_before_anything_is_made(tiny, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    flags = {"store": str(tiny.with_name("tiny_20")), "method": "fixmatch", "device": "mps", "model": "wrn-10-1"}
    with pytest.raises(UsageError, match="strong views"):
        api.configure(open_split(flags["store"]), [], flags)
    spec = api.configure(open_split(flags["store"]), [], {**flags, "method": "mixmatch"})
    assert (spec.run.device, spec.run.precision, spec.run.engine) == ("mps", "fp32", "eager")
