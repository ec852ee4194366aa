"""Builds killed at any write, continued, split, damaged, verified and repaired, in any order.

Whatever happened: a store that opens gives the right pixels or an error; it is complete and whole exactly if `verify`
finds nothing; and once it is, its bytes are those of a store that nothing ever happened to.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import faults
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.building.build import build
from pipeline.check.repair import repair
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from pipeline.splits.protocols import Request
from pipeline.splits.split_stores import write_all
from stores import open_store
from stores.errors import RealMixError
from stores.format import layout, manifest
from stores.system import aside
from stores.verify import verify

rng = np.random.default_rng(0)
SOURCE = Source(
    name="arrays",
    train=Part(rng.integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) % 3),
    test=Part(rng.integers(0, 256, (9, 8, 8, 3), np.uint8), np.arange(9) % 3),
    class_names=["a", "b", "c"],
    weak={"flip": True, "shift": 1},
    origin={"kind": "test"},
)
SMALL = {"CHUNK_BYTES": 16 * 2 * 8 * 8 * 3, "BASE_CHUNK_BYTES": 16 * 8 * 8 * 3, "CHUNKS_PER_FILE": 1}  # several files


class Killed(BaseException):
    """Nobody catches it: the process would be gone."""


def files_of(path: Path) -> list[Path]:
    """Files of a store; a build killed just after its last write also leaves its journal, until the next one looks."""
    return [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".")]


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in files_of(path)}


def make(path: Path) -> None:
    build(path, SOURCE, load_recipe("cutout", SOURCE.weak, (8, 8)), copies=2, seed=4, workers=1)


class Stores(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.plain = {name: getattr(layout, name) for name in SMALL}
        for name, value in SMALL.items():
            setattr(layout, name, value)
        self.root = Path(tempfile.mkdtemp())
        self.store, self.split = self.root / "data", self.root / "data_6"
        reference = self.root / "reference" / "data"
        make(reference)
        write_all(open_store(reference), [Request(labels=6)])
        self.whole = {"data": bytes_of(reference), "data_6": bytes_of(reference.with_name("data_6"))}
        self.content = faults.content(reference)
        self.damaged: dict[Path, bytes] = {}

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)
            for name, value in self.plain.items():
                setattr(layout, name, value)

    def complete(self) -> bool:
        return (self.store / "zarr.json").exists() and b'"complete": true' in (self.store / "zarr.json").read_bytes()

    def damage_in(self, store: Path) -> set[str]:
        return {p.relative_to(store).as_posix() for p in self.damaged if p.is_relative_to(store)}

    @rule(write=st.integers(1, 30), when=st.sampled_from(["before", "torn", "after"]))
    def killed_build(self, write: int, when: str) -> None:
        plain, count = manifest.write_atomically, 0

        def deadly(target: Path, data: bytes) -> None:
            nonlocal count
            count += 1
            if count == write and when == "torn":
                aside.named(target).write_bytes(data[: len(data) // 2])
            if count == write and when != "after":
                raise Killed
            plain(target, data)
            if count == write:
                raise Killed

        was_complete = self.complete()
        manifest.write_atomically = deadly
        try:
            make(self.store)
        except Killed:
            assert not was_complete, "a complete store was written again"
        except RealMixError:
            assert self.damage_in(self.store)
        finally:
            manifest.write_atomically = plain
        self._forget_what_a_build_mends(was_complete)

    @rule()
    def whole_build(self) -> None:
        was_complete = self.complete()
        try:
            make(self.store)
        except RealMixError:
            assert "zarr.json" in self.damage_in(self.store)
            return
        assert self.complete()
        self._forget_what_a_build_mends(was_complete)

    def _forget_what_a_build_mends(self, was_complete: bool) -> None:
        """A build that continues writes what is not as its journal says; a complete store it leaves alone."""
        if not was_complete and self.complete():
            self.damaged = {p: data for p, data in self.damaged.items() if not p.is_relative_to(self.store)}

    @rule()
    def split_it(self) -> None:
        there = self.split.exists()
        try:
            write_all(open_store(self.store), [Request(labels=6)])
        except RealMixError:
            assert not self.complete() or self.damaged
        else:
            assert there or bytes_of(self.split) == self.whole["data_6"]

    @precondition(lambda self: self.complete() and not self.damaged)
    @rule(which=st.integers(0, 999), kind=st.sampled_from(["flipped", "truncated", "removed", "emptied"]))
    def damage(self, which: int, kind: str) -> None:
        files = [p for folder in (self.store, self.split) for p in files_of(folder)]
        file = files[which % len(files)]
        good = file.read_bytes()
        if not good:
            return
        at = which % len(good)
        bad = {"flipped": good[:at] + bytes([good[at] ^ 0x20]) + good[at + 1 :], "truncated": good[:at], "emptied": b""}
        file.unlink() if kind == "removed" else file.write_bytes(bad[kind])
        self.damaged[file] = good

    @precondition(lambda self: self.damaged)
    @rule()
    def repair_them(self) -> None:
        for store in (self.store, self.split):
            if not store.exists():
                continue
            try:
                report = repair(store)
            except RealMixError:
                continue
            for key in report.restored:
                path = store.parent / key if key.startswith("data/") else store / key
                assert path.read_bytes() == self.damaged.pop(path)

    @precondition(lambda self: self.damaged)
    @rule()
    def bring_back_a_backup(self) -> None:
        for file, good in self.damaged.items():
            file.write_bytes(good)
        self.damaged.clear()

    @invariant()
    def what_opens_is_right(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            assert faults.same(faults.content(self.store), self.content)
            assert self.complete()
        except RealMixError:
            assert self.damaged or not self.complete()

    @invariant()
    def whole_exactly_if_verify_finds_nothing(self) -> None:
        for store in (self.store, self.split) if hasattr(self, "store") else ():
            try:
                found = {problem.file for problem in verify(store)}
            except RealMixError:
                assert "zarr.json" in self.damage_in(store) or not store.exists() or not self.complete()
                continue
            assert found == self.damage_in(store)
            if not found:
                assert bytes_of(store) == self.whole[store.name]


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=12, stateful_step_count=10, deadline=None, derandomize=True)
