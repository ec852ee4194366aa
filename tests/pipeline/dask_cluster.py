"""A Dask cluster on loopback whose processes can be killed, for tests."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DASK = Path(sys.executable).with_name("dask")


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Iterator[Cluster]:
    """A scheduler and two workers, each a process of its own; the folder is made."""
    folder.mkdir()
    running = Cluster(folder)
    try:
        running.start()
        running.add_worker()
        running.add_worker()
        yield running
    finally:
        running.stop()


class Cluster:
    """A scheduler and workers that can be killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._processes = folder, list[subprocess.Popen[bytes]]()

    def start(self) -> None:
        told = self._folder / "scheduler.json"
        self._start("scheduler", "--port", "0", "--scheduler-file", str(told))
        until(lambda: told.exists() and told.read_text().rstrip().endswith("}"))
        self.scheduler, self.workers = self._processes[0], list[subprocess.Popen[bytes]]()
        self.address = json.loads(told.read_text())["address"]

    def add_worker(self) -> None:
        folder = self._folder / f"worker{len(self.workers)}"
        folder.mkdir()
        options = ("--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--local-directory", str(folder))
        self.workers.append(self._start("worker", self.address, *options, cwd=folder))

    @property
    def folders(self) -> list[Path]:
        """In which the workers were started."""
        return [self._folder / f"worker{number}" for number in range(len(self.workers))]

    def _start(self, what: str, *options: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        command = [str(DASK), what, *options, "--host", "127.0.0.1", "--no-dashboard"]
        log = (self._folder / "log").open("ab")
        with log:
            process = subprocess.Popen(command, cwd=cwd or self._folder, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def until(happens: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
