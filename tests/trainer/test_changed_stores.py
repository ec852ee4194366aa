"""A store that is not the one that was opened: the right content or an error, never another build's."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import faults
import numpy as np
import pytest
from tiny_stores import build_stores

from pipeline.check.repair import repair
from stores import open_store
from stores.errors import IntegrityError, RealMixError, StoreError
from stores.format import arrays
from stores.format.shards import encode
from stores.verify import verify
from trainer import api
from trainer.data.parametric import Drawn
from trainer.data.resident import Pool
from trainer.data.streaming import Stream
from trainer.runs import checkpoint
from trainer.runs.run_dir import Run

CPU = checkpoint.CPU


@pytest.fixture(scope="module")
def others(source, tmp_path_factory) -> Path:
    """The same images, drawn with another seed: every file is sound, of the same shape, and another build's."""
    return build_stores(tmp_path_factory.mktemp("others") / "stores", source, seed=2)


def use(split: Path) -> None:
    """All that a trainer reads of a store."""
    store = open_store(split)
    dataset = store.dataset
    assert dataset.source_index.size
    dataset.test_images.read(store.test)
    Pool(dataset.train_images, np.sort(store.labeled), None, CPU)
    Pool(dataset.copies, np.sort(store.unlabeled), 3, CPU)
    Drawn(dataset, np.sort(store.unlabeled), 3, CPU)
    stream = Stream(dataset.copies, np.sort(store.unlabeled), 5, 16, 1, 1 << 30)
    try:
        for step in range(12):
            stream.take(step)
    finally:
        stream.close()


def test_a_whole_file_of_another_build_is_refused_by_name(tiny_copy, others):
    split = tiny_copy.with_name("tiny_20")
    use(split)
    tried = 0
    for ours, theirs in ((tiny_copy, others), (split, others.with_name("tiny_20"))):
        for key in faults.files_of(ours):
            good, other = (ours / key).read_bytes(), (theirs / key).read_bytes()
            if good == other or key == "zarr.json":
                continue
            (ours / key).write_bytes(other)
            assert [problem.file for problem in verify(ours)] == [key]
            with pytest.raises(RealMixError) as caught:
                use(split)
            assert str(ours / key) in str(caught.value)
            assert caught.value.exit_code == 4
            (ours / key).write_bytes(good)
            tried += 1
    assert tried >= 6
    use(split)


def test_a_file_of_the_same_size_is_compared_too(tiny_copy):
    """Every chunk is sound, and the index: two copies of an image have changed places, and with them the checksums."""
    store, key = open_store(tiny_copy), "copies/images/c/0/0/0/0/0"
    pixels = store.copies.read(range(store.copies.layout.rows(0)[1]))
    for swap in range(1, 5):
        changed = pixels.copy()
        changed[:, [0, swap]] = changed[:, [swap, 0]]
        data = encode(store.copies.layout, 0, changed)
        (tiny_copy / key).write_bytes(data)
        with pytest.raises(IntegrityError, match="not the file that the store's manifest names"):
            open_store(tiny_copy).copies.read(range(3))


def replaced_while_streaming(split: Path, replace) -> RealMixError:
    """Stream a run from a store and replace that after its second line; the run's error."""
    runs, write_line = split.parent.parent / "runs", Run.write_line
    lines = []

    def note(self: Run, record: dict) -> None:
        write_line(self, record)
        lines.append(record)
        if len(lines) == 2:
            replace()

    flags = {"store": str(split), "model": "wrn-10-1", "steps": 100, "threads": 1, "device": "cpu", "feed": "stream"}
    flags |= {"window": "400KiB", "copies": 1, "eval_every": 100, "checkpoint_every": 2}  # hardly anything read ahead
    words = ["log_every=2", "batch=4", "precision=fp32", "engine=eager", "tensorboard=false", "pool=stored"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "write_line", note)
        with pytest.raises(RealMixError) as caught:
            api.train(words, flags, runs, "run", quiet=True)
    assert checkpoint.read(runs / "run", CPU)["step"] >= 2, "what was saved before is there"
    assert not (runs / "run" / "result.json").exists()
    return caught.value


def test_a_store_built_anew_under_a_stream_ends_the_run(tiny_copy, others):
    def replace() -> None:
        """As `build --force`: the manifest says that it is incomplete, the files go, others come."""
        content = json.loads((tiny_copy / "zarr.json").read_text())
        content["attributes"]["realmix"]["complete"] = False
        (tiny_copy / "zarr.json").write_text(json.dumps(content))
        shutil.rmtree(tiny_copy / "copies")
        shutil.copytree(others, tiny_copy, dirs_exist_ok=True)

    error = replaced_while_streaming(tiny_copy.with_name("tiny_20"), replace)
    assert isinstance(error, StoreError)
    assert "was replaced while it was read" in str(error)


def test_one_file_replaced_under_a_stream_ends_the_run(tiny_copy, others):
    def replace() -> None:
        for key in faults.files_of(tiny_copy):
            if key.startswith("copies/images/c/"):
                shutil.copyfile(others / key, tiny_copy / key)

    error = replaced_while_streaming(tiny_copy.with_name("tiny_20"), replace)
    assert isinstance(error, IntegrityError)
    assert "copies/images/c/" in str(error)


def test_a_repaired_store_goes_on(tiny_copy):
    """Removed, noticed, derived again: the same store, though another file and perhaps another manifest."""
    store, key = open_store(tiny_copy), "copies/images/c/0/0/0/0/0"
    whole = store.copies.read()
    (tiny_copy / key).unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        store.copies.read()
    assert repair(tiny_copy).restored.keys() == {key}
    os.utime(tiny_copy / "zarr.json")
    assert np.array_equal(store.copies.read(), whole)


def test_threads_compare_a_file_once(tiny, monkeypatch):
    compared, require = [], arrays._ArrayFile.require

    def counted(file, facts) -> None:
        compared.append(file.path)
        require(file, facts)

    monkeypatch.setattr(arrays._ArrayFile, "require", counted)
    array = open_store(tiny).copies
    threads = [threading.Thread(target=array.read, args=(range(5),), kwargs={"workers": 1}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(3):
        array.read()
    assert len(compared) == array.layout.num_files
