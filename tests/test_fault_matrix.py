"""The fault matrix: every region of every file of a small store, damaged in every way, one at a time."""

from __future__ import annotations

from collections import Counter

import faults
import pytest
from tiny_stores import build_stores


@pytest.mark.parametrize(("kind", "least"), [("dataset", 250), ("split", 150)])
def test_every_region_of_every_file(tmp_path, source_of_few, kind, least):
    store = build_stores(tmp_path, source_of_few, copies=3)
    read = faults.content
    if kind == "split":
        store, read = store.with_name("tiny_20"), faults.split_content
    whole, seen = read(store), Counter()
    for key in faults.files_of(store):
        for fault in faults.faults(store, key):
            seen += faults.inflict(store, fault, read, whole)
    assert seen["cases"] > least
    assert seen["named by verify"] + seen["refused by verify"] == seen["cases"]
    assert seen["refused by the reader"] + seen["read right"] == seen["cases"]
    assert seen["restored by repair"] + seen["named as lost"] == seen["cases"]
    assert faults.same(read(store), whole)
