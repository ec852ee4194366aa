"""A build on a real Dask cluster: a scheduler and two workers, each a process of its own on loopback."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dask_cluster import Cluster, bytes_of, dask_cluster, until

from pipeline.building import cluster
from pipeline.building.build import build
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from stores.errors import RealMixError, StoreError, UsageError
from stores.format import layout

FILES, ROWS, COPIES = 16, 16, 60


@pytest.fixture(scope="module")
def source() -> Source:
    """Images for a store of 16 files of copies, more than are handed out to two workers at a time."""
    images = np.random.default_rng(0).integers(0, 256, (FILES * ROWS + 8, 8, 8, 3), np.uint8)
    images = images.repeat(12, axis=1).repeat(12, axis=2)  # 96×96: a chunk holds four of them

    def part(start: int, stop: int) -> Part:
        return Part(images[start:stop], np.arange(start, stop) % 2)

    return Source(
        "arrays",
        part(0, FILES * ROWS),
        part(FILES * ROWS, FILES * ROWS + 8),
        ["a", "b"],
        {"flip": True, "shift": 1},
        {"kind": "test"},
    )


@pytest.fixture(scope="module")
def expected(source, small_files, tmp_path_factory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("local") / "store"
    make(path, source)
    return bytes_of(path)


SMALL_FILES = "from stores.format import layout; layout.CHUNKS_PER_FILE = 4; from pipeline.cli import main; main()"


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNKS_PER_FILE", 4)
        yield


def make(path: Path, source: Source, **options) -> None:
    build(path, source, load_recipe("cutout", source.weak, (96, 96)), copies=COPIES, workers=2, **options)


@pytest.fixture
def dask(tmp_path) -> Iterator[Cluster]:
    with dask_cluster(tmp_path / "dask") as running:
        yield running


def written(path: Path) -> int:
    return len(list(path.glob("copies/images/c/*/0/0/0/0")))


class At:
    """Progress that does something once, when the first copies are there and not all of them."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action, self.done = action, 0

    def __call__(self, what: str, done: int, of: int) -> None:
        if what == "copies" and done and not self.done:
            self.done = done
            assert done < of
            self._action()


def test_two_workers_write_the_bytes_of_this_machine_even_if_one_is_killed(dask, source, expected, tmp_path):
    make(tmp_path / "store", source, dask=dask.address)
    assert bytes_of(tmp_path / "store") == expected
    # half of the tasks that are handed out lie with each worker, so one that dies at the first file has some
    killed = At(dask.workers[0].kill)
    make(tmp_path / "again", source, dask=dask.address, progress=killed)
    assert killed.done
    assert bytes_of(tmp_path / "again") == expected


def test_without_workers_the_build_stops_and_continues_elsewhere(dask, source, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "GRACE_S", 1.0)

    def kill() -> None:
        for worker in dask.workers:
            worker.kill()

    with pytest.raises(RealMixError, match="all workers of the Dask cluster") as error:
        make(tmp_path / "store", source, dask=dask.address, progress=At(kill))
    assert "continues" in error.value.hint
    assert 0 < written(tmp_path / "store") < FILES
    dask.add_worker()
    with pytest.raises(RealMixError, match="the Dask scheduler at"):
        make(tmp_path / "store", source, dask=dask.address, progress=At(dask.scheduler.kill))
    make(tmp_path / "store", source)
    assert bytes_of(tmp_path / "store") == expected


def test_who_says_nothing_is_not_waited_for(dask, source, tmp_path, monkeypatch):
    """Stopped, not dead: every connection stands. First a worker, then the scheduler."""
    until(lambda: (tmp_path / "dask" / "log").read_text().count("Register worker") == 2)
    dask.workers[0].send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "ANSWER_S", 2.0)
        with pytest.raises(StoreError, match="do not answer"):
            make(tmp_path / "store", source, dask=dask.address)
    dask.workers[0].send_signal(signal.SIGCONT)

    def freeze() -> None:
        dask.scheduler.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(cluster, "ANSWER_S", 1.0)

    with pytest.raises(RealMixError, match=r"the Dask scheduler at '.*' is gone") as error:
        make(tmp_path / "store", source, dask=dask.address, progress=At(freeze))
    assert "has said nothing" in error.value.why


def test_ctrl_c_cancels_and_the_next_run_continues(dask, source, expected, tmp_path):
    np.savez(
        tmp_path / "a.npz",
        x_train=source.train.images,
        y_train=source.train.labels,
        x_test=source.test.images,
        y_test=source.test.labels,
    )
    command = [sys.executable, "-W", "error", "-c", SMALL_FILES, "build", "arrays", "a.npz", "--root", ".", "--labels"]
    command += ["8", "--copies", str(COPIES), "--dask", dask.address, "--quiet"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    with contextlib.closing(running.stderr):
        until(lambda: written(tmp_path / "a"))
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
    assert running.wait() == 130
    told = [line for line in said.splitlines() if not line.startswith("note: ")]
    assert told == ["error: interrupted", "→ run the same command again: it continues"]
    before = written(tmp_path / "a")
    assert before < FILES
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    images = {k: v for k, v in bytes_of(tmp_path / "a").items() if k.startswith("copies/")}
    assert images == {k: v for k, v in expected.items() if k.startswith("copies/")}


@pytest.mark.parametrize("logger", ["distributed", "distributed.client", "distributed.comm.tcp", "tornado.application"])
def test_dask_prints_no_tracebacks_beside_our_errors(dask, source, tmp_path, logger, capfd):
    """The connection's loggers speak when it is closed in the middle of a request, which not every Ctrl-C meets."""
    seen = []

    def speak() -> None:
        logging.getLogger(logger).error("Exception in callback")
        seen.append(logging.getLogger(logger).isEnabledFor(logging.ERROR))

    make(tmp_path / "store", source, dask=dask.address, progress=At(speak))
    assert seen == [False]
    assert "Exception in callback" not in "".join(capfd.readouterr())


def test_a_worker_that_does_not_see_the_store_is_named(dask, source, tmp_path, monkeypatch):
    """/proc/self/cwd is another folder in each process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(StoreError, match=r"worker tcp://127.* does not see '/proc/self/cwd/store'"):
        make(Path("/proc/self/cwd/store"), source, dask=dask.address)
    assert list(Path().iterdir()) == []
    few = replace(source, train=Part(source.train.images[:8], source.train.labels[:8]))
    make(tmp_path / "dask/worker0/store", few)
    make(tmp_path / "dask/worker1/store", few)
    with pytest.raises(StoreError, match=r"worker tcp://127.* sees another '/proc/self/cwd/store'"):
        make(Path("/proc/self/cwd/store"), source, dask=dask.address)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("127.0.0.1:1", StoreError, "no Dask scheduler answers"),
        ("somewhere", UsageError, "no address"),
        ("foo://127.0.0.1:8786", UsageError, "unknown address scheme"),
    ],
)
def test_no_scheduler_is_one_clear_error(source, tmp_path, monkeypatch, address, kind, message):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(kind, match=message):
        make(tmp_path / "store", source, dask=address)
    assert list(tmp_path.iterdir()) == []


def test_without_dask_the_error_says_what_to_install(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'realmix\[dask\]'"):
        make(tmp_path / "store", source, dask="127.0.0.1:1")
    assert list(tmp_path.iterdir()) == []
