"""CIFAR, SVHN and STL-10: torchvision's real code on small archives, from disk and from a web server right here."""

from __future__ import annotations

import tarfile
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import archives
import numpy as np
import pytest
from torchvision import datasets

from pipeline.sources import load
from stores.errors import IntegrityError, StoreError, UsageError

NOWHERE = "http://127.0.0.1:9/nothing-listens-here"
TARS = {
    "cifar10": (archives.cifar10, datasets.CIFAR10),
    "cifar100": (archives.cifar100, datasets.CIFAR100),
    "stl10": (archives.stl10, datasets.STL10),
}


def trust(monkeypatch, kind, archive, url=NOWHERE):
    """Let torchvision expect the small archive's checksums."""
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [[name, archive.md5[name]] for name, _ in getattr(kind, attribute)])
    if hasattr(kind, "meta"):
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": archive.md5[kind.meta["filename"]]})
    monkeypatch.setattr(kind, "tgz_md5", archive.tar_md5)
    monkeypatch.setattr(kind, "url", url)


def trust_svhn(monkeypatch, splits, url=NOWHERE):
    table = {split: [url, one.path.name, one.md5[one.path.name]] for split, one in splits.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", table)


@contextmanager
def server(data: bytes, answer: str = "whole"):
    """A web server with one file; answers "whole", "404", or "dropped" (half of the file, then silence)."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(404 if answer == "404" else 200)
            self.send_header("Content-Length", "0" if answer == "404" else str(len(data)))
            self.end_headers()
            if answer != "404":
                with suppress(ConnectionError):  # torchvision opens a URL once only to see where it leads
                    self.wfile.write(data if answer == "whole" else data[: len(data) // 2])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/file", requests
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def assert_holds(part, images, labels):
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_array_equal(part.images[order], images[order])
    np.testing.assert_array_equal(part.labels, labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_from_an_archive_a_folder_and_unpacked(name, tmp_path, monkeypatch):
    make, kind = TARS[name]
    archive = make(tmp_path / "given")
    trust(monkeypatch, kind, archive)
    with tarfile.open(archive.path) as tar:
        tar.extractall(tmp_path / "open", filter="data")
    base = tmp_path / "open" / kind.base_folder
    given = [archive.path, archive.path.parent, base.parent, base]
    sources = [load(name, from_=path, cache=tmp_path / f"cache{i}") for i, path in enumerate(given)]
    for source in sources:
        assert_holds(source.train, *archive.train)
        assert_holds(source.test, *archive.test)
        assert source.origin == sources[0].origin
    assert sources[0].origin["train"] == len(archive.train[0])
    assert (sources[0].name, sources[0].protocol, sources[0].weak) == (name, name, {"flip": True, "shift": 4})
    if name == "cifar10":
        assert sources[0].class_names == archives.CIFAR10_NAMES
    else:
        assert sources[0].class_names[42] == "fine42"


def test_svhn_zero_is_class_zero_and_extra_is_appended(tmp_path, monkeypatch):
    splits = archives.svhn(tmp_path / "mat")
    trust_svhn(monkeypatch, splits)
    plain = load("svhn", from_=tmp_path / "mat", cache=tmp_path / "cache")
    assert_holds(plain.train, *splits["train"].train)
    assert_holds(plain.test, *splits["test"].test)
    assert plain.class_names == list("0123456789")
    assert (plain.weak, plain.protocol) == ({"flip": False, "shift": 4}, "svhn")
    both = load("svhn", from_=splits["train"].path, cache=tmp_path / "cache", extra=True)
    images, labels = zip(splits["train"].train, splits["extra"].train, strict=True)
    assert_holds(both.train, np.concatenate(images), np.concatenate(labels))
    assert (plain.origin["extra"], both.origin["extra"]) == (0, 15)


def test_svhn_with_a_split_missing_or_damaged(tmp_path, monkeypatch):
    splits = archives.svhn(tmp_path / "mat")
    trust_svhn(monkeypatch, splits)
    data = bytearray(splits["test"].path.read_bytes())
    data[200] ^= 1
    splits["test"].path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"test_32x32\.mat"):
        load("svhn", from_=tmp_path / "mat", cache=tmp_path / "cache")
    splits["test"].path.unlink()
    with pytest.raises(UsageError, match=r"test_32x32\.mat' is missing"):
        load("svhn", from_=tmp_path / "mat", cache=tmp_path / "cache")


def test_stl10_upright_with_unlabelled_images_and_folds(tmp_path, monkeypatch):
    archive = archives.stl10(tmp_path)
    trust(monkeypatch, datasets.STL10, archive)
    source = load("stl10", from_=archive.path, cache=tmp_path / "cache")
    images, labels = archive.train
    assert_holds(source.train, np.concatenate([images, archive.more]), np.concatenate([labels, np.full(6, -1)]))
    assert_holds(source.test, *archive.test)
    np.testing.assert_array_equal(source.folds, (np.arange(10)[:, None] + np.arange(8)) % 20)
    assert source.folds.dtype == np.int64
    assert (source.class_names[7], source.weak) == ("monkey", {"flip": True, "shift": 12})


@pytest.mark.parametrize("text", [None, "0 1 2\n3 4\n", "0 1\n2 20\n"], ids=["missing", "ragged", "beyond"])
def test_stl10_damaged_folds_are_named(text, tmp_path, monkeypatch):
    archive = archives.stl10(tmp_path)
    trust(monkeypatch, datasets.STL10, archive)
    load("stl10", from_=archive.path, cache=tmp_path / "cache")
    folds = tmp_path / "cache" / "stl10" / "stl10_binary" / "fold_indices.txt"
    folds.unlink() if text is None else folds.write_text(text)
    with pytest.raises(IntegrityError, match=r"fold_indices\.txt"):
        load("stl10", from_=folds.parent, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_download_then_cache(name, tmp_path, monkeypatch):
    make, kind = TARS[name]
    archive = make(tmp_path)
    with server(archive.path.read_bytes()) as (url, requests):
        trust(monkeypatch, kind, archive, url)
        source = load(name, cache=tmp_path / "cache")
        assert_holds(source.test, *archive.test)
        asked = len(requests)
        load(name, cache=tmp_path / "cache")
        assert asked > 0
        assert len(requests) == asked, "the second time comes from the cache"


def test_svhn_downloads_each_split(tmp_path, monkeypatch):
    splits = archives.svhn(tmp_path / "mat")
    with server(splits["train"].path.read_bytes()) as (url, _):
        trust_svhn(monkeypatch, dict.fromkeys(splits, splits["train"]), url)
        assert_holds(load("svhn", cache=tmp_path / "cache").train, *splits["train"].train)


def test_download_not_found(tmp_path, monkeypatch):
    archive = archives.cifar10(tmp_path)
    with server(b"", "404") as (url, _):
        trust(monkeypatch, datasets.CIFAR10, archive, url)
        with pytest.raises(StoreError, match="404") as caught:
            load("cifar10", cache=tmp_path / "cache")
    assert url in caught.value.what
    assert "--from" in caught.value.hint


def test_download_without_a_network(tmp_path, monkeypatch):
    splits = archives.svhn(tmp_path / "mat")
    trust_svhn(monkeypatch, splits)
    with pytest.raises(StoreError, match="cannot download svhn") as caught:
        load("svhn", cache=tmp_path / "cache")
    assert "--from" in caught.value.hint


def test_download_that_breaks_off_is_refused_and_can_be_repeated(tmp_path, monkeypatch):
    archive = archives.cifar10(tmp_path)
    with server(archive.path.read_bytes(), "dropped") as (url, _):
        trust(monkeypatch, datasets.CIFAR10, archive, url)
        with pytest.raises(IntegrityError, match=r"cifar-10-python\.tar\.gz") as caught:
            load("cifar10", cache=tmp_path / "cache")
    assert "--from" in caught.value.hint
    assert not list((tmp_path / "cache").rglob("*.gz"))
    with server(archive.path.read_bytes()) as (url, _):
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        assert_holds(load("cifar10", cache=tmp_path / "cache").train, *archive.train)


@pytest.mark.parametrize("name", TARS)
def test_wrong_checksum_of_a_given_archive(name, tmp_path, monkeypatch):
    make, kind = TARS[name]
    archive = make(tmp_path)
    with server(b"") as (url, requests):
        monkeypatch.setattr(kind, "url", url)
        with pytest.raises(
            IntegrityError, match=archive.path.name
        ) as caught:  # torchvision's own checksum, not trusted
            load(name, from_=archive.path, cache=tmp_path / "cache")
    assert caught.value.exit_code == 4
    assert not requests
    assert not (tmp_path / "cache").exists()


def test_damaged_unpacked_file_is_named(tmp_path, monkeypatch):
    archive = archives.cifar10(tmp_path)
    trust(monkeypatch, datasets.CIFAR10, archive)
    cache = tmp_path / "cache"
    load("cifar10", from_=archive.path, cache=cache)
    batch = cache / "cifar10" / "cifar-10-batches-py" / "data_batch_3"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-7])
    with pytest.raises(IntegrityError, match="data_batch_3"):
        load("cifar10", from_=cache / "cifar10", cache=cache)
    assert_holds(load("cifar10", from_=archive.path, cache=cache).train, *archive.train)  # unpacked again
    (batch.parent / "batches.meta").unlink()
    with pytest.raises(UsageError, match=r"batches\.meta' is missing"):
        load("cifar10", from_=cache / "cifar10", cache=cache)


def test_from_a_folder_without_the_archive(tmp_path):
    with pytest.raises(UsageError, match=r"cifar-100-python\.tar\.gz"):
        load("cifar100", from_=tmp_path, cache=tmp_path / "cache")
