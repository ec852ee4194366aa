"""What is printed or written for people: any text is shown as it is, and none of it commands the reader's program."""

from __future__ import annotations

import csv
import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.errors import suggest
from stores.system import text

ANY = st.text(st.characters(), max_size=30)  # halves of surrogate pairs too


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ANY)
def test_what_is_shown_is_one_line_that_any_terminal_takes(name):
    shown = text.visible(name)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert text.visible(shown) == shown
    assert shown == name or not name.isprintable()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\r\t\0", r"a\nb\r\t\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb", r"a\u202eb"),
        ("\ud800", r"\ud800"),
        ("caf\udce9", r"caf\xe9"),
        ("[red]naïve 猫 🐈", "[red]naïve 猫 🐈"),
    ],
)
def test_escapes_are_shown(name, shown):
    assert text.visible(name) == shown


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(ANY, ANY), min_size=1, max_size=4), ANY)
def test_a_table_shows_its_cells_whatever_they_hold(rows, title):
    for head in ((), ("[b]", "[/b]")):
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", out)
            text.print_table(rows, head, title)
        assert all(line.isprintable() for line in out.getvalue().split("\n"))


def test_markup_and_emoji_codes_are_text(capsys):
    text.print_table([("[red]cat", "[/a]"), (":cat:", "[link=x]y[/link]")], ("[bold]x", "y"), "[/title]")
    out = capsys.readouterr().out
    for word in ("[red]cat", "[/a]", ":cat:", "[link=x]y[/link]", "[bold]x", "[/title]"):
        assert word in out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(ANY, min_size=1, max_size=5))
def test_no_cell_of_a_csv_is_a_formula_and_the_file_is_lines_of_text(cells):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(map(text.csv_cell, cells))
    (row,) = csv.reader(io.StringIO(out.getvalue()))
    assert len(row) == len(cells)
    for cell, read in zip(cells, row, strict=True):
        assert read.isprintable()
        if read[:1] in tuple("=+-@＝＋－＠"):
            assert float(cell) == float(read), "a number"


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "+1"),
        ("-0.5e3", "-0.5e3"),
        ("-x", "'-x"),
        ("@a", "'@a"),
        ("\tx", r"'\tx"),
        (-3, -3),
        (0.25, 0.25),
        ("img/a.png", "img/a.png"),
    ],
)
def test_numbers_stay_numbers(cell, written):
    assert text.csv_cell(cell) == written


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("tiny", "tiny"),
        ("a|b", r"a\|b"),
        ("<img src=x>", r"\<img src=x\>"),
        ("&lt;", r"\&lt;"),
        ("`x`", r"\`x\`"),
        ("[a](b)", r"\[a\](b)"),
        ("- x", r"\- x"),
        ("1. x", r"1\. x"),
        ("12) x", r"12\) x"),
        ("    x", "&#32;" * 4 + "x"),
        ("a\n# b", r"a\\n\# b"),
    ],
)
def test_markdown_shows_the_name_itself(name, written):
    assert text.markdown(name) == written


@pytest.mark.parametrize(("name", "written"), [("x", "`x`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("\n", r"`\n`")])
def test_code_ends_where_it_should(name, written):
    assert text.code(name) == written


def test_names_that_look_the_same_are_told_apart():
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert text.spelled([composed, apart, "thé"]) == [r"caf\xe9", r"cafe\u0301", "thé"]
    assert suggest(f"{composed}\u200b", [composed]) == r"it looks the same and is not: caf\xe9\u200b instead of caf\xe9"
    assert suggest("cafes", [composed, apart]).startswith("did you mean caf")
    assert suggest("x", [composed, apart]) == r"known: cafe\u0301, caf\xe9"
