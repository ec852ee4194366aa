"""Killed anywhere and resumed, a run equals one that was never interrupted, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stores import open_store
from stores.errors import StoreError
from stores.format import manifest
from stores.system import aside
from trainer import api
from trainer.runs import weights
from trainer.runs.run_dir import Run

SETTINGS = ["eval_every=6", "checkpoint_every=5", "log_every=4", "batch=8", "precision=fp32", "tensorboard=false"]
VOLATILE = ("seconds", "images_per_s", "data_wait", "crc32", "sha256", "files")
STEPS = 20


def start(split: Path, runs: Path) -> tuple[Path, dict]:
    flags = {"store": str(split), "model": "wrn-10-1", "steps": STEPS, "threads": 1, "device": "cpu"}
    return api.train(SETTINGS, flags, runs, "run", quiet=True)


@pytest.fixture(scope="module")
def split(tiny):
    return tiny.with_name("tiny_20")


@pytest.fixture(scope="module")
def uninterrupted(split, tmp_path_factory) -> Path:
    return start(split, tmp_path_factory.mktemp("plain"))[0]


def steady(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in VOLATILE}


def assert_equal(run: Path, plain: Path) -> None:
    assert (run / weights.FILE).read_bytes() == (plain / weights.FILE).read_bytes()
    logs = [[steady(json.loads(line)) for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (run, plain)]
    assert logs[0] == logs[1]
    results = [steady(json.loads((r / "result.json").read_text())) for r in (run, plain)]
    assert results[0] == results[1]
    assert not list(run.glob(".*")), "nothing written aside is left"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(split: Path, runs: Path, where: str, count: int) -> None:
    """In a process of its own: start or resume, and die at the `count`-th event of a kind."""
    events = iter(range(count, 0, -1))
    write_line, write_atomically = Run.write_line, manifest.write_atomically

    def half_a_line(self: Run, record: dict) -> None:
        if next(events) == 1:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(record)[:25])
            die()
        write_line(self, record)

    def before_replacing(path: Path, data: bytes) -> None:
        if path.name == where and next(events) == 1:
            aside.named(path).write_bytes(bytes(data)[:1000])
            die()
        write_atomically(path, data)

    def after_replacing(path: Path, data: bytes) -> None:
        write_atomically(path, data)
        if path.name == where.removeprefix("after ") and next(events) == 1:
            die()

    if where == "line":
        Run.write_line = half_a_line  # type: ignore[method-assign]
    else:
        manifest.write_atomically = after_replacing if where.startswith("after ") else before_replacing
    if (runs / "run").exists():
        api.resume(runs / "run", quiet=True)
    else:
        start(split, runs)


@pytest.fixture(scope="module")
def forked():
    """Processes that start with torch loaded, and without threads that a fork would lose."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.api", "torch._dynamo"])
    return context


CRASHES = [
    [("line", 3), ("line", 1), ("line", 4)],
    [("checkpoint.pt", 2), ("checkpoint.pt", 1), ("after checkpoint.pt", 2)],
    [("checkpoint.pt", 1), ("after checkpoint.pt", 1), ("after checkpoint.pt", 4), ("model.safetensors", 1)],
    [("config.json", 1), ("after model.safetensors", 1), ("result.json", 1), ("after result.json", 1)],
]


@pytest.mark.parametrize("crashes", CRASHES, ids=[" then ".join(f"{w} {n}" for w, n in c) for c in CRASHES])
def test_killed_at_a_chosen_moment(crashes, uninterrupted, split, tmp_path, forked):
    for where, count in crashes:
        process = forked.Process(target=run_and_die, args=(split, tmp_path, where, count))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    path, result = api.resume(tmp_path / "run", quiet=True)
    assert result["steps"] == STEPS
    assert_equal(path, uninterrupted)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_the_command_killed_and_resumed(uninterrupted, split, tmp_path):
    words = [sys.executable, "-m", "trainer", "--store", split, "--runs", tmp_path, "--name", "run"]
    words += ["--model", "wrn-10-1", "--steps", STEPS, "--threads", 1, "--device", "cpu"]
    words += [word for assignment in SETTINGS for word in ("--set", assignment)]
    process = subprocess.Popen([*map(str, words)], stderr=subprocess.DEVNULL)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not metrics.is_file():
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert metrics.is_file(), "the run came as far as its first line"
    assert_equal(api.resume(tmp_path / "run", quiet=True)[0], uninterrupted)


def test_resuming_on_another_store_changes_nothing(uninterrupted, split, tiny_copy, tmp_path):
    from pipeline.splits.protocols import Request
    from pipeline.splits.split_stores import write_all

    runs = tmp_path / "runs"
    path, _ = start(tiny_copy.with_name("tiny_20"), runs)
    (path / "result.json").unlink()
    write_all(open_store(tiny_copy), [Request(labels=25)])
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(StoreError, match="is not the store"):
        api.resume(path, tiny_copy.with_name("tiny_25"), quiet=True)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    tiny_copy.parent.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="tiny_20"):
        api.resume(path, quiet=True)
    api.resume(path, tmp_path / "moved" / "tiny_20", quiet=True)
    assert_equal(path, uninterrupted)
