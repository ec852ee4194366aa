"""Names of stores and runs: what is refused, what is made of anything, and that a reader takes what a writer did."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.errors import UsageError
from stores.format import fields, names

STRANGE = [
    "",
    ".",
    "..",
    "../outside",
    "a/b",
    "/etc",
    "a\\b",
    ".hidden",
    "-rf",
    " a",
    "a ",
    "a\nb",
    "a\0",
    "\x1b[31m",
    "a#1",
    "a?b",
    "\udce9t\udce9",
    "x" * 256,
    "\u202etxt",
]


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_leads_nowhere_else_and_hides_nothing(name):
    assert not names.is_name(name)
    with pytest.raises(UsageError, match="--name"):
        names.require(name, "--name")


@pytest.mark.parametrize(
    "name", ["mine", "My photos (2)", "[a] & b, c", "v1.2", "\u00e9t\u00e9", "\u72ac", "_", "it's 50 %"]
)
def test_a_name_may_be_what_people_call_things(name):
    assert names.require(name, "--name") == name


def test_a_name_leaves_room_for_what_is_written_beside_it():
    assert names.require("x" * 200, "--name")
    with pytest.raises(UsageError, match="200 bytes"):
        names.require("\u00e9" * 101, "--name")


@given(st.text())
def test_what_is_derived_is_a_name_that_a_shell_takes_and_stays_itself(text):
    name = names.derive(text)
    if name:
        assert names.require(name, "--name") == name
    assert not set(name) & set(string.whitespace + string.punctuation.translate(dict.fromkeys(map(ord, "_-."))))
    assert names.derive(name) == name


def test_versions_keep_their_numbers_and_forms_of_a_letter_are_one():
    assert names.derive("v1.1") != names.derive("v1.2")
    assert names.derive("cafe\u0301") == names.derive("caf\u00e9")
    assert names.derive("???") == names.derive("../..") == ""


@given(st.from_regex(r"\w[\w.\-]{0,200}", fullmatch=True))
def test_every_name_that_older_stores_could_have_is_one(name):
    assert names.is_name(name)


def test_a_manifest_is_read_by_the_same_rule():
    split = {"kind": "split", "dataset": {"name": "../outside"}}
    assert "dataset.name" in fields.wrong(split)
    split["dataset"]["name"] = "My photos (2)"
    assert "dataset.name" not in fields.wrong(split)
