"""Several processes make the run that one makes; they stop together, and one that dies ends the others with a word."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embedded_stores import copied
from rounding import ADAM, assert_same, bound
from safetensors.torch import load_file
from train_every_method import train_all, train_on_embeddings

from networks.layers import processes
from stores.errors import RealMixError, UsageError
from trainer import api, distributed
from trainer.config import RunConfig
from trainer.runs import checkpoint
from trainer.runs.run_dir import open_run, write_json

STEPS = 6
WORDS = ["--model", "wrn-10-1", "--threads", "1", "--device", "cpu", "--engine", "eager", "--batch", "8"]
SETTINGS = ["precision=fp32", "tensorboard=false", "log_every=2", "eval_every=6", "checkpoint_every=10"]


def torchrun(*words: object) -> list[str]:
    """The command that starts two processes here."""
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, words)]


def assert_same_run(run: Path, plain: Path, stretched: float) -> None:
    """Losses of every line, which are kept in float32, and the final weights, in float64, up to rounding."""
    records = [[json.loads(line) for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (run, plain)]
    assert len(records[0]) == len(records[1])
    for ours, theirs in zip(*records, strict=True):
        for name in set(theirs) - {"kind", "seconds", "images_per_s", "data_wait", "crc32"}:
            limit = bound(torch.float32, 100) + bound(torch.float64, stretched=stretched)
            assert ours[name] == pytest.approx(theirs[name], rel=limit, abs=limit), (run.name, name)
    ours, theirs = (load_file(r / "model.safetensors") for r in (run, plain))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert_same(ours[name], theirs[name], f"{run.name}: {name}", stretched=stretched)


@pytest.fixture(scope="module")
def split(tiny: Path) -> Path:
    return tiny.with_name("tiny_20")


def test_every_method_makes_the_same_run_on_two_processes(tiny: Path, tmp_path: Path) -> None:
    """One start of two processes trains every method in turn, as `torchrun -m trainer` would; some on embeddings."""
    script, split = Path(__file__).with_name("train_every_method.py"), copied(tiny, tmp_path / "stores")
    split = split.with_name("tiny_20")
    done = subprocess.run(
        torchrun(script, split, tmp_path / "two"), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in train_all(split, tmp_path / "one"):
        # an optimizer's step of .002 may stretch rounding by as much as Adam does, the six steps each other
        assert_same_run(tmp_path / "two" / name, tmp_path / "one" / name, 0.002 * ADAM * STEPS)
        assert not list((tmp_path / "two" / name).glob(".*")), "one process alone writes"
    for name in train_on_embeddings(split, tmp_path / "one"):
        ours, theirs = (load_file(tmp_path / runs / name / "model.safetensors") for runs in ("two", "one"))
        assert ours.keys() == theirs.keys()
        for key in theirs:
            # SGD's steps follow the gradient's rounding in float32, and six steps amplify it little
            assert (ours[key] - theirs[key]).abs().max() <= 1e-4 * theirs[key].abs().max().clamp(min=1e-3), (name, key)


def start(split: Path, runs: Path, steps: int) -> subprocess.Popen[str]:
    words = ["-m", "trainer", "--store", split, "--runs", runs, "--name", "run", "--steps", steps, *WORDS]
    words += [word for assignment in SETTINGS for word in ("--set", assignment)]
    process = subprocess.Popen(torchrun(*words), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    checkpoint = runs / "run" / "checkpoint.pt"
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if checkpoint.is_file() and torch.load(checkpoint, weights_only=True)["step"] > 0:
            return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1][-3000:])


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the two trainers, in order of their rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(v[5:]): child for v in variables if v.startswith(b"RANK=")}
    return [ranks[0], ranks[1]]


def test_a_killed_process_ends_the_job_with_a_word_and_the_run_continues(split: Path, tmp_path: Path) -> None:
    process = start(split, tmp_path, steps=100_000)
    import os

    os.kill(workers(process)[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    # Who is left notices the loss, or is ended by torchrun, which notices it too.
    assert "error: another process of this run ended" in stderr or "error: interrupted" in stderr, stderr[-3000:]
    assert f"--resume {tmp_path / 'run'}" in stderr
    step = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert step > 0
    shorten(tmp_path / "run", step + 3)
    assert api.resume(tmp_path / "run", quiet=True)[1]["steps"] == step + 3


def test_a_signal_stops_all_processes_at_one_step_with_a_checkpoint(split: Path, tmp_path: Path) -> None:
    process = start(split, tmp_path, steps=100_000)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert stderr.count("error: interrupted at step") == 1, stderr[-2000:]
    step = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert f"interrupted at step {step}" in stderr


def shorten(run: Path, steps: int) -> None:
    """Let a run of many steps end soon."""
    config, saved = json.loads((run / "config.json").read_text()), torch.load(run / "checkpoint.pt", weights_only=True)
    config["run"]["steps"] = saved["identity"]["run"]["schedule_steps"] = steps
    write_json(run / "config.json", config)
    torch.save(saved, run / "checkpoint.pt")
    assert open_run(run).config["run"]["steps"] == steps


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 3)
    distributed.require_divisible(6, "labelled images")
    with pytest.raises(UsageError, match="8 labelled images cannot be divided among 3 processes"):
        distributed.require_divisible(8, "labelled images")


def test_a_run_may_go_on_with_another_number_of_processes() -> None:
    """One process on a GPU replays its steps, several do not: that makes it no other run."""

    def identity(**changes: Any) -> dict[str, Any]:
        return checkpoint.identity({"run": asdict(RunConfig(**changes)), "settings": {}, "store": {"fingerprint": "f"}})

    assert identity(cuda_graph=True) == identity(cuda_graph=False, store="elsewhere") != identity(seed=2)


def test_alone_there_is_nobody_to_ask() -> None:
    assert (distributed.world(), distributed.rank(), distributed.local_rank()) == (1, 0, 0)
    assert distributed.agree(True)
    assert not distributed.agree(False)
    assert distributed.by_first(lambda: 7) == 7
    with pytest.raises(RealMixError, match="mine"):
        distributed.by_first(_fail)
    mean, var = torch.rand(2, 3), torch.rand(2, 3)
    assert processes.pooled(mean, var) == (mean, var)
    assert not distributed.is_lost_process(RuntimeError("Connection closed by peer"))


def _fail() -> None:
    raise RealMixError("mine")


def test_pooled_statistics_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and variance of the whole from those of its halves, as `pooled` adds them up."""
    rows = np.random.default_rng(0).normal(3, 2, (2, 10, 4))
    halves = torch.from_numpy(rows)
    sums = torch.stack([halves.mean(1), halves.var(1, correction=0) + halves.mean(1).square()], 1).sum(0)
    monkeypatch.setattr(processes, "world", lambda: 2)
    monkeypatch.setattr(processes, "sum_over_processes", lambda x: sums)
    mean, var = processes.pooled(halves[0].mean(0), halves[0].var(0, correction=0))
    torch.testing.assert_close(mean, halves.flatten(0, 1).mean(0))
    torch.testing.assert_close(var, halves.flatten(0, 1).var(0, correction=0))


TIMM = """
import sys
from pathlib import Path
from trainer import api

for bn in ("grouped", "adapted"):
    settings = [f"bn={bn}", "rampup_steps=2", "optimizer=sgd", "lr=0.01", "precision=fp32", "tensorboard=false"]
    flags = {"store": sys.argv[1], "method": "mixmatch", "model": "timm:test_resnet", "weights": "none", "batch": 8}
    flags |= {"input_size": 32, "steps": 2, "threads": 1, "engine": "eager", "device": "cpu"}
    api.train(settings, flags, Path(sys.argv[2]), bn, quiet=True)
"""


def test_a_network_of_timm_makes_the_same_run_on_two_processes(split: Path, tmp_path: Path) -> None:
    script = tmp_path / "timm_run.py"
    script.write_text(TIMM)
    for command, runs in ((torchrun(script), "two"), ([sys.executable, str(script)], "one")):
        subprocess.run([*command, str(split), str(tmp_path / runs)], capture_output=True, timeout=600, check=True)
    for bn in ("grouped", "adapted"):
        ours, theirs = (load_file(tmp_path / runs / bn / "model.safetensors") for runs in ("two", "one"))
        for name in theirs:
            # SGD's steps follow the gradient's rounding in float32, and two steps amplify it little
            assert (ours[name] - theirs[name]).abs().max() <= 1e-2 * theirs[name].abs().max().clamp(min=1e-3), name
