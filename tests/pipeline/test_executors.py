"""Where tasks run: few at a time, the first failure ends it, and no worker process outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.building import build as building
from pipeline.building.build import build
from pipeline.building.executors import threads
from pipeline.recipes import load_recipe
from pipeline.sources import Part
from stores.errors import RealMixError
from stores.format import layout


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_few_tasks_are_handed_out_at_a_time():
    lock, taken, most, got = threading.Lock(), [0], [0], {}

    def indices():
        for index in range(200):
            with lock:
                taken[0] += 1
                most[0] = max(most[0], taken[0] - len(got))
            yield index

    with threads(2) as pool:
        pool.run(lambda index: index**2, indices(), got.__setitem__)
    assert got == {index: index**2 for index in range(200)}
    assert most[0] <= pool.ahead == 8


def test_the_first_failure_ends_it():
    begun = []

    def task(index: int) -> int:
        begun.append(index)
        if index == 3:
            raise ValueError("three")
        return index

    with pytest.raises(ValueError, match="three"), threads(1) as pool:
        pool.run(task, range(1000), lambda *_: None)
    assert len(begun) <= 3 + 1 + pool.ahead


def test_a_killed_worker_process_is_told_and_the_build_continues(source, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "CHUNKS_PER_FILE", 1)  # 12 files: more than are handed out at a time
    images = np.tile(source.train.images[:128], (6, 1, 1, 1))
    source = replace(source, train=Part(images, np.arange(len(images)) % 5))
    recipe = load_recipe("color", source.weak, images.shape[1:3])

    @contextmanager
    def here(recipe, workers):
        with threads(1) as pool:
            yield pool

    with monkeypatch.context() as patch:
        patch.setattr(building, "local", here)
        build(tmp_path / "one", source, recipe, copies=4)

    def kill(what, done, of):
        if what == "copies" and done:
            multiprocessing.active_children()[0].kill()

    path = tmp_path / "store"
    with pytest.raises(RealMixError, match="a worker process died") as error:
        build(path, source, recipe, copies=4, workers=2, progress=kill)
    assert "continues" in error.value.hint
    assert 0 < len(list(path.glob("copies/images/c/*/0/0/0/0"))) < 12
    build(path, source, recipe, copies=4, workers=1)
    assert bytes_of(path) == bytes_of(tmp_path / "one")


ORPHANS = """
import os, signal
from pipeline.building.executors import processes
if __name__ == "__main__":
    with processes(2) as pool:
        for pid in {pool.executor.submit(os.getpid).result() for _ in range(8)}:
            print(pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_worker_processes_end_with_their_parent(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = [int(line) for line in done.stdout.split()]
    assert pids
    end = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < end, "a worker outlived its parent"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


SLOW = """
import sys, time
from pathlib import Path
from pipeline.building.executors import processes
from stores import errors
def task(index):
    half = Path(f"half_{index}")
    try:
        half.touch()
        time.sleep(60)
    finally:
        half.unlink(missing_ok=True)
def main():
    with processes(2) as pool:
        pool.run(task, range(20), print)
if __name__ == "__main__":
    errors.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("whole_group", [True, False])
def test_an_interruption_does_not_wait_for_worker_processes(tmp_path, number, whole_group):
    """Only the parent is told, or its workers too, as by a terminal that closes."""
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "slow.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("half_*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 130
    assert said == "error: interrupted\n→ run the same command again: it continues\n"
    assert [path.name for path in tmp_path.iterdir()] == ["slow.py"]
