"""Stores in object storage, against a real S3 server process: the same bytes, the same errors, cut connections."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import zarr
from s3_server import CuttingProxy, free_port, s3_server

from pipeline.building.build import build
from pipeline.recipes import load_recipe
from pipeline.splits.protocols import Request
from pipeline.splits.split_stores import write_all
from stores import DatasetStore, SplitStore, open_store, writer
from stores.embeddings import names_of
from stores.errors import IntegrityError, StorageError, StoreError, UsageError
from stores.format import manifest
from stores.storage import bucket, location, lock
from stores.storage.location import BucketPath, locate
from stores.verify import verify

BUCKET = "realmix"
IMAGES = "copies/images/c/0/0/0/0/0"
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def server():
    with s3_server() as port:
        yield port


@pytest.fixture(scope="module")
def environment(server):
    """What a user sets; and nothing that could send a request anywhere but to loopback."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        patch.setattr(bucket, "RETRIES", 3)
        patch.setattr(bucket, "FIRST_PAUSE", 0.02)
        make_bucket = urllib.request.Request(f"http://127.0.0.1:{server}/{BUCKET}", method="PUT")
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(make_bucket).close()
        yield


@pytest.fixture
def place(environment, request) -> BucketPath:
    """A prefix of the test's own."""
    return BucketPath(BUCKET, f"tests/{hashlib.md5(request.node.nodeid.encode()).hexdigest()[:8]}")


@pytest.fixture
def proxy(server, environment, monkeypatch):
    made = CuttingProxy(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
    yield made
    made.close()


def build_into(root: location.Location, source, copies: int = 5, **options):
    recipe = load_recipe("cutout", source.weak, source.train.images.shape[1:3])
    store, new = build(root / "tiny", source, recipe, copies=copies, workers=2, **options)
    write_all(store, [Request(labels=20)])
    return store, new


@pytest.fixture(scope="module")
def remote(environment, source) -> BucketPath:
    """The session's stores once more, in the bucket, for reading only."""
    root = BucketPath(BUCKET, "stores")
    build_into(root, source)
    return root / "tiny"


def objects(place: BucketPath) -> dict[str, bytes]:
    return {location.inside(path, place): path.read_bytes() for path in place.rglob("*")}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def copy_of(remote: BucketPath, place: BucketPath) -> BucketPath:
    for key, data in objects(remote.parent).items():
        (place / key).write_bytes(data)
    return place / remote.name


def test_the_same_bytes_as_on_disk(tiny, remote):
    assert objects(remote.parent) == files(tiny.parent)
    local, far = open_store(tiny.with_name("tiny_20")), open_store("s3://realmix//stores/tiny_20/")
    assert isinstance(far, SplitStore)
    assert far.fingerprint == local.fingerprint
    assert (far.name, str(far.path)) == ("tiny_20", "s3://realmix/stores/tiny_20")
    rows = RNG.permutation(150)[:40]
    np.testing.assert_array_equal(far.dataset.copies.read(rows, copies=3), local.dataset.copies.read(rows, copies=3))
    np.testing.assert_array_equal(far.labeled, local.labeled)
    assert far.dataset.folds is None


def test_embeddings_in_a_bucket_are_those_of_a_folder(remote, tiny, tmp_path):
    from pipeline.embedding.job import Request, embed

    shutil.copytree(tiny, tmp_path / "tiny")
    request = Request("timm:test_efficientnet", "none", size=16, copies=2, batch=50, name="net", device="cpu")
    there, new = embed(open_store(remote), request)
    here, _ = embed(open_store(tmp_path / "tiny"), request)
    assert new and objects(there.path) == files(here.path) and verify(there.path) == []
    assert not embed(open_store(remote), request)[1]
    assert names_of(open_store(remote)) == ["net"]
    for entry in there.path.rglob("*"):
        entry.unlink()


def test_plain_zarr_python_reads_it(tiny, remote):
    from obstore.store import S3Store

    objects_below = S3Store(BUCKET, prefix=remote.key, client_options={"allow_http": True})
    group = zarr.open_group(zarr.storage.ObjectStore(objects_below, read_only=True), mode="r")
    for name in ("train/images", "copies/images", "copies/params", "train/labels"):
        np.testing.assert_array_equal(group[name][:], zarr.open_group(tiny, mode="r")[name][:])


@pytest.mark.parametrize("home", ["pool=stored", "feed=stream"])
def test_training_from_it_gives_the_same_weights(tiny, remote, tmp_path, home):
    from trainer import api
    from trainer.runs import weights

    settings = ["batch=8", "precision=fp32", "tensorboard=false", home]
    made = {}
    for name, store in (("near", str(tiny.with_name("tiny_20"))), ("far", f"{remote}_20")):
        flags = {"store": store, "model": "wrn-10-1", "steps": 3, "threads": 1, "device": "cpu"}
        run, _ = api.train(settings, flags, tmp_path, name, quiet=True)
        made[name] = (run / weights.FILE).read_bytes()
    assert made["near"] == made["far"]
    assert json.loads((tmp_path / "far/config.json").read_text())["run"]["store"] == f"{remote}_20"


def test_a_stream_outlives_connections_that_are_cut_and_ends_with_the_server(tiny, remote, proxy, monkeypatch):
    from trainer.data.streaming import Stream

    rows = open_store(tiny.with_name("tiny_20")).unlabeled
    rows.sort()
    array = open_store(str(remote)).copies
    near = Stream(open_store(tiny).copies, rows, 5, 8, 1, 2 << 20)
    far = Stream(array, rows, 5, 8, 1, 2 << 20)
    proxy.cut("down", 20_000, times=2)
    for step in range(100):
        for expected, found in zip(near.read(step), far.read(step), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert proxy.cuts == 2
    far.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    gone = Stream(array, rows, 5, 8, 1, 2 << 20)
    with pytest.raises(StorageError, match=r"tiny/copies/images/c/0.* could not be reached"):
        [gone.read(step) for step in range(100)]
    for each in (near, gone):
        each.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("stream", "loader"))]


KILLED = """
import os, signal, sys
import numpy as np
from pipeline.building.build import build
from pipeline.recipes import load_recipe
from pipeline.sources import Part, Source
from stores.format import manifest
from stores.storage.location import locate
url, kill_at, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
plain, count = manifest.write_atomically, 0
def deadly(path, data):
    global count
    count += 1
    if count == kill_at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    plain(path, data)
    if count == kill_at and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
manifest.write_atomically = deadly
rng = np.random.default_rng(0)
part = lambda n: Part(rng.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8), np.arange(n) % 3)
source = Source("arrays", part(90), part(9), ["a", "b", "c"], {"flip": True, "shift": 1}, {"kind": "test"})
build(locate(url), source, load_recipe("cutout", source.weak, (12, 12)), copies=3, seed=4, workers=1)
print(count)
"""


def test_a_killed_build_continues_to_the_same_bytes(place, tmp_path):
    def run(url: object, kill_at: int = 0, when: str = "") -> subprocess.CompletedProcess:
        command = [sys.executable, "-W", "error", "-c", KILLED, str(url), str(kill_at), when]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole = run(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    last = int(whole.stdout)
    for kill_at, when in ((2, "before"), (last // 2, "after"), (last, "after")):
        url = place / f"{when}{kill_at}"
        assert run(url, kill_at, when).returncode == -9
        again = run(url)
        assert again.returncode == 0, again.stderr
        assert objects(url) == files(tmp_path / "whole"), "neither a lock nor a journal is left"


def test_a_connection_cut_in_the_middle_is_made_again(place, proxy):
    data = RNG.bytes(300_000)
    for direction in ("up", "down"):
        proxy.cut(direction, 100_000, times=1)
        (place / "large").write_bytes(data)
        assert (place / "large").read_bytes() == data
        assert proxy.cuts == 1, direction
    file = location.open_file(place / "large")
    proxy.cut("down", 100_000, times=1)
    assert file.read(1000, 250_000) == data[1000:251_000]
    for i in range(30):
        (place / f"listed/{i}").write_bytes(b"")
    proxy.cut("down", 2_000, times=2)
    assert len(list((place / "listed").rglob("*"))) == 30
    proxy.cut("down", 2_000, times=2)
    assert len(list((place / "listed").iterdir())) == 30
    assert proxy.times_left == 0


def test_a_connection_that_is_always_cut_is_one_error_and_nothing_partial(place, proxy):
    data = RNG.bytes(300_000)
    proxy.cut("up", 100_000, times=10**9)
    with pytest.raises(StorageError, match=r"/large' could not be reached"):
        (place / "large").write_bytes(data)
    assert not place.exists()
    proxy.cut("up", 0, times=0)
    (place / "large").write_bytes(data)
    proxy.cut("down", 100, times=10**9)  # a read goes on where it was cut: only never getting anywhere fails
    with pytest.raises(StorageError, match=r"/large' could not be reached"):
        (place / "large").read_bytes()


def test_a_build_whose_connection_breaks_keeps_what_it_wrote_and_continues(place, proxy, source, tiny):
    def cut_copies(what: str, *_: int) -> None:
        if what == "copies":
            proxy.cut("up", 20_000, times=10**9)

    with pytest.raises(StorageError, match="could not be reached"):
        build_into(place, source, progress=cut_copies)
    assert proxy.cuts > bucket.RETRIES
    proxy.cut("up", 0, times=0)
    left = objects(place / "tiny")
    assert "train/images/c/0/0/0/0" in left
    assert not [key for key in left if key.startswith("copies/images/c")]
    with pytest.raises(StoreError, match="is not complete"):
        open_store(place / "tiny")
    build_into(place, source)
    assert objects(place) == files(tiny.parent)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove", "index"])
def test_damage_is_named_and_never_read(remote, place, damage):
    store = copy_of(remote, place)
    good = (store / IMAGES).read_bytes()
    bad = {
        "flip": good[:99] + bytes([good[99] ^ 1]) + good[100:],
        "truncate": good[:-300],
        "empty": b"",
        "index": good[:-6] + bytes([good[-6] ^ 1]) + good[-5:],
    }
    if damage == "remove":
        (store / IMAGES).unlink()
    else:
        (store / IMAGES).write_bytes(bad[damage])
    problems = verify(store)
    assert [p.file for p in problems] == [IMAGES]
    assert "rows 0–149 of copies/images" in str(problems[0])
    opened = open_store(store)
    assert isinstance(opened, DatasetStore)
    with pytest.raises(IntegrityError, match=f"{store}/{IMAGES}' is (damaged|missing)"):
        opened.copies.read()


def test_force_deletes_what_a_store_is_made_of_and_nothing_else(remote, place, source):
    store = copy_of(remote, place)
    foreign = {"notes.txt": b"mine", "copies/notes": b"mine", "train/images/c/mine": b"mine"}
    for key, data in foreign.items():
        (store / key).write_bytes(data)
    with pytest.raises(StoreError, match="holds another store"):
        build_into(place, source, copies=2)
    _, new = build_into_dataset(place, source, copies=2, force=True)
    assert new
    assert foreign.items() <= objects(store).items()
    assert verify(store) == []
    (place / "photos/cat.txt").write_bytes(b"meow")
    for name, options in (("photos", {}), ("photos", {"force": True})):
        with pytest.raises(StoreError, match="is not a store"), writer.open_target(place / name, SPEC, **options):
            pass
    assert objects(place / "photos") == {"cat.txt": b"meow"}


def test_a_user_mistake_removes_what_this_build_created(place):
    def broken_source() -> None:
        with writer.open_target(place / "tiny", SPEC) as target:
            target.record(writer.write_table(target.path, "train/labels", np.arange(9)))
            raise UsageError("a broken image")

    with pytest.raises(UsageError, match="broken image"):
        broken_source()
    assert not (place / "tiny").exists()


def test_an_interrupted_split_is_written_again(remote, place):
    store = copy_of(remote, place)
    split = place / "tiny_20"
    whole = objects(split)
    (split / "labeled/c/0").unlink()
    manifest.write(split, {**manifest.read(split), "complete": False})
    with pytest.raises(StoreError, match="is not complete"):
        open_store(split)
    write_all(open_store(store), [Request(labels=20)])
    assert objects(split) == whole
    (split / "zarr.json").unlink()  # whose arrays these are, nobody can say any more
    with pytest.raises(StoreError, match="is not a store"):
        write_all(open_store(store), [Request(labels=20)])


SPEC = {
    "spec": {"copies": 3, "seed": 1, "recipe": {"name": "cutout"}},
    "class_names": ["a"],
    "recipe_columns": [],
    "weak": {"flip": True, "shift": 0},
    "num_images": 1,
    "num_test": 1,
    "image_size": [1, 1],
    "num_copies": 3,
}


def build_into_dataset(root, source, copies: int, **options):
    recipe = load_recipe("cutout", source.weak, source.train.images.shape[1:3])
    return build(root / "tiny", source, recipe, copies=copies, workers=2, **options)


@pytest.fixture
def quick_beats(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "PATIENCE", 4)


def test_two_builds_at_once_one_is_told(place, quick_beats):
    with lock.exclusive(place) as still_held:
        with pytest.raises(StoreError, match="another build is running"), lock.exclusive(place):
            pass
        elsewhere = json.loads((place / lock.NAME).read_bytes()) | {"machine": "another"}
        assert elsewhere["pid"] == os.getpid()
        still_held()
    assert not (place / lock.NAME).exists()


def test_two_real_builds_at_once(place, source, tiny):
    """The second begins while the first writes its copies, and is told; the first is not disturbed."""
    said = []

    def second(what: str, done: int, _: int) -> None:
        if what == "copies" and not said:
            with pytest.raises(StoreError, match="another build is running") as told:
                build_into(place, source)
            said.append(told)

    build_into(place, source, progress=second)
    assert said
    assert objects(place) == files(tiny.parent)


def test_a_lock_of_another_machine_is_watched(place, quick_beats, monkeypatch):
    """Refused while it changes, taken over when it does not; who lost it is told at the next write."""
    real = lock.process_identity
    with monkeypatch.context() as other_machine:
        other_machine.setattr(lock, "process_identity", lambda pid: {"machine": "far away", "started": "1"})
        lost = lock.exclusive(place)
        check = lost.__enter__()
    with pytest.raises(StoreError, match=f"process {os.getpid()} on"), lock.exclusive(place):
        pass
    check()
    (place / lock.NAME).write_bytes(b"not even JSON")  # its owner finds that out, and stops
    with lock.exclusive(place) as still_held:
        still_held()
        with pytest.raises(StorageError, match="another build took over"):
            check()
        lost.__exit__(None, None, None)
        still_held()
        assert (place / lock.NAME).exists(), "the loser does not remove the winner's"
    assert lock.process_identity is real


def test_a_lock_of_a_dead_process_of_this_machine_is_taken_at_once(place):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {**lock.process_identity(child.pid), "pid": child.pid, "token": "x"}
    (place / lock.NAME).write_bytes(json.dumps(owner).encode())
    with pytest.raises(StoreError, match=f"process {child.pid}"), lock.exclusive(place):
        pass
    child.kill()
    child.communicate()
    with lock.exclusive(place) as still_held:
        still_held()


def test_the_loser_of_a_takeover_writes_no_manifest(place, quick_beats):
    def overtaken() -> None:
        with writer.open_target(place, SPEC) as target:
            (place / lock.NAME).write_bytes(b"{}")
            while True:
                target.record(writer.write_table(place, "train/labels", np.arange(9)))

    with pytest.raises(StorageError, match="took over"):
        overtaken()
    assert b'"complete": false' in (place / "zarr.json").read_bytes()


@pytest.fixture
def command(environment, monkeypatch, capfd, tmp_path):
    """Run a command line in this process: exit code and what it printed."""
    from pipeline import cli as data
    from trainer import cli as train

    monkeypatch.chdir(tmp_path)
    np.savez("tiny.npz", images=RNG.integers(0, 256, (60, 8, 8, 3), np.uint8), labels=np.arange(60) % 2)

    def run(line: str) -> tuple[int, str]:
        program, *words = line.split()
        monkeypatch.setattr(sys, "argv", [program, *words])
        with pytest.raises(SystemExit) as left:
            {"realmix-data": data.main, "realmix-train": train.main}[program]()
        out, err = capfd.readouterr()
        return left.value.code or 0, out + err

    return run


def test_every_command_takes_a_url(command, place):
    def ok(line: str) -> str:
        code, said = command(line)
        assert code == 0, said
        return said

    url = f"{place}/noise"
    said = ok(f"realmix-data build arrays tiny.npz --name noise --copies 2 --root {place} --labels 8 --quiet")
    assert f"{url}: built" in said
    assert f"realmix-train --store {url}_8" in said
    assert "already built" in ok(
        f"realmix-data build arrays tiny.npz --name noise --copies 2 --root {place} --labels 8 --quiet"
    )
    assert ok(f"realmix-data split {url} --labels 10").strip() == f"{url}_10"
    assert json.loads(ok(f"realmix-data info {url}_10 --json"))["store"] == f"{url}_10"
    assert f"{url}_10: sound" in ok(f"realmix-data verify --deep --quiet {url}_10")
    ok(f"realmix-data preview {url} -o sheet.png")
    small = "--model wrn-10-1 --batch 4 --steps 2 --device cpu --threads 1 --set tensorboard=false"
    assert f"{url}_10" in ok(f"realmix-train --store {url}_10 {small}")
    key = BucketPath(BUCKET, f"{place.key}/noise/{IMAGES}")
    key.write_bytes(key.read_bytes()[:-1])
    code, said = command(f"realmix-data verify --quiet {url}_10")
    assert code == 4
    assert IMAGES in said
    assert "restored" in ok(f"realmix-data repair --quiet {url}")
    assert "sound" in ok(f"realmix-data verify --quiet {url}")


@pytest.mark.parametrize(
    ("line", "variables", "code", "message"),
    [
        ("realmix-data info s3://realmix/stores/nothing", {}, 3, "stores in 's3://realmix/stores': tiny, tiny_20"),
        ("realmix-train --store s3://realmix/stores/tiny", {}, 3, "its splits: tiny_20"),
        ("realmix-data info s3://nowhere/x", {}, 3, "there is no bucket 'nowhere'"),
        ("realmix-data build digits --root s3://nowhere/x --quiet", {}, 3, "there is no bucket 'nowhere'"),
        ("realmix-data info gs://realmix/x", {}, 2, "s3://bucket/prefix"),
        ("realmix-data info s3://realmix/a/../b", {}, 2, "s3://bucket/prefix"),
        ("realmix-train --store s3:///x", {}, 2, "s3://bucket/prefix"),
        ("realmix-data verify s3://realmix/x", {"AWS_ACCESS_KEY_ID": ""}, 3, "no credentials for s3://realmix"),
        ("realmix-train --store s3://realmix/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, 3, "AWS_ENDPOINT_URL"),
    ],
)
def test_one_clear_error(command, remote, monkeypatch, line, variables, code, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    got, said = command(line)
    assert got == code, said
    assert message in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 5


def test_without_the_extra_the_error_says_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    code, said = command("realmix-data info s3://realmix/stores/tiny")
    assert code == 2
    assert "pip install 'realmix[cloud]'" in said


def test_places(tmp_path):
    assert locate(str(tmp_path)) == locate(tmp_path) == tmp_path
    assert locate("s3://bucket") == BucketPath("bucket")
    place = locate("s3://bucket//a/b/")
    assert (str(place), place.name, str(place.parent)) == ("s3://bucket/a/b", "b", "s3://bucket/a")
    assert str(place.parent.parent / "c/d") == "s3://bucket/c/d"
    assert location.inside(place / "x/y", place) == "x/y"


@pytest.mark.parametrize(
    "line",
    [
        "realmix-data verify {place}/tiny --quiet",
        "realmix-data build arrays tiny.npz --name noise --copies 2 --root {place} --quiet",
        "realmix-train --store {place}/tiny_20 --feed stream --model wrn-10-1 --batch 4 --steps 100000 --device cpu"
        " --threads 1 --window 80KiB --eval-every 100000",
    ],
    ids=["a pool that reads", "a lock and a pool that writes", "a stream"],
)
def test_a_bucket_that_falls_silent_holds_nobody_who_is_to_end(place, source, proxy, tmp_path, line):
    """It takes every connection and says nothing; in the middle of the command, or from its beginning."""
    build_into(place, source)
    np.savez(
        tmp_path / "tiny.npz", images=RNG.integers(0, 256, (3000, 24, 24, 3), np.uint8), labels=np.arange(3000) % 2
    )
    program, *words = line.format(place=place).split()
    module = {"realmix-data": "pipeline", "realmix-train": "trainer"}[program]
    before = proxy.answers
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while proxy.answers < before + 6:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    proxy.silent.set()
    asked = proxy.requests
    while proxy.requests == asked:  # somebody waits
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "error: interrupted" in said
