"""`verify` finds every kind of damage to a store's files and says what is lost."""

from __future__ import annotations

import json

import pytest

from stores.errors import IntegrityError
from stores.verify import require_sound, verify


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
    with pytest.raises(IntegrityError, match=r"missing \(rows 0–149 of copies/images\)"):
        require_sound(tiny_copy)


def test_a_file_the_manifest_forgot_is_found(tiny_copy):
    meta = tiny_copy / "zarr.json"
    group = json.loads(meta.read_text())
    del group["attributes"]["realmix"]["files"]["train/labels/c/0"]
    meta.write_text(json.dumps(group))
    assert [str(p) for p in verify(tiny_copy)] == ["train/labels/c/0: needed, but not in the manifest"]


def test_a_manifest_that_points_outside_is_not_followed(tiny_copy):
    meta = tiny_copy / "zarr.json"
    group = json.loads(meta.read_text())
    group["attributes"]["realmix"]["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
    meta.write_text(json.dumps(group))
    assert "outside the store" in str(verify(tiny_copy)[0])
