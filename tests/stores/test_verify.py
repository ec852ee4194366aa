"""`verify` finds every kind of damage to a store's files and says what is lost."""

from __future__ import annotations

import json

import pytest

from stores.errors import StoreError
from stores.format import manifest
from stores.verify import verify


def files(store):
    return sorted(p for p in store.rglob("*") if p.is_file() and p != store / "zarr.json")


def test_a_sound_store_has_no_problem_and_reports_progress(tiny):
    seen = []
    assert verify(tiny, lambda done, total: seen.append((done, total))) == []
    assert verify(tiny.with_name("tiny_20")) == []
    assert seen[-1][0] == seen[-1][1] == sum(p.stat().st_size for p in files(tiny))


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_damage_to_any_file_is_named(tiny_copy, damage):
    for file in files(tiny_copy):
        good = file.read_bytes()
        if damage == "flip":
            file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        elif damage == "truncate":
            file.write_bytes(good[: len(good) // 2])
        elif damage == "empty":
            file.write_bytes(b"")
        else:
            file.unlink()
        problems = verify(tiny_copy)
        assert [p.file for p in problems] == [file.relative_to(tiny_copy).as_posix()]
        file.write_bytes(good)
    assert verify(tiny_copy) == []


def test_lost_rows_are_named(tiny_copy):
    (tiny_copy / "copies/images/c/0/0/0/0/0").unlink()
    assert str(verify(tiny_copy)[0]).endswith("missing (rows 0–149 of copies/images)")


def edit_manifest(store, change) -> None:
    content = json.loads((store / "zarr.json").read_text())["attributes"]["realmix"]
    change(content)
    manifest.write(store, content)


def test_a_file_the_manifest_forgot_is_found(tiny_copy):
    edit_manifest(tiny_copy, lambda m: m["files"].pop("train/labels/c/0"))
    assert [str(p) for p in verify(tiny_copy)] == ["train/labels/c/0: needed, but not in the manifest"]


def test_a_manifest_that_points_outside_is_refused(tiny_copy):
    edit_manifest(tiny_copy, lambda m: m["files"].update({"../../secret": {"bytes": 1, "sha256": "0" * 64}}))
    with pytest.raises(StoreError, match="files"):
        verify(tiny_copy)


def test_a_manifest_that_is_not_what_its_checksum_says_is_refused(tiny_copy):
    meta = tiny_copy / "zarr.json"
    meta.write_text(meta.read_text().replace('"ant"', '"cat"'))
    with pytest.raises(StoreError, match="its own checksum"):
        verify(tiny_copy)


def test_a_changed_byte_around_the_manifest_is_found(tiny_copy):
    meta = tiny_copy / "zarr.json"
    meta.write_text(meta.read_text().replace('"node_type"', '"mode_type"'))
    assert [p.file for p in verify(tiny_copy)] == ["zarr.json"]


def test_a_manifest_without_its_checksum_is_refused(tiny_copy):
    group = json.loads((tiny_copy / "zarr.json").read_text())
    del group["attributes"]["realmix_sha256"]
    (tiny_copy / "zarr.json").write_text(json.dumps(group, indent=1, sort_keys=True))
    with pytest.raises(StoreError, match="its own checksum"):
        verify(tiny_copy)
