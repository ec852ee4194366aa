"""The site is built without a warning, and a reader of it fetches nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import realmix
from trainer.methods import FITTED, METHODS

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built strictly: a broken link, a page that nobody finds or an unknown name in the reference is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_fetched_when_a_page_is_read(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert [page for page in pages if FETCHED.search(page.read_text())] == []
    assert "fonts.googleapis" not in "".join(sheet.read_text() for sheet in site.rglob("*.css"))


def test_every_method_and_option_has_its_place(site):
    for name in METHODS | FITTED:
        page = (site / "methods" / name / "index.html").read_text()
        assert "The algorithm" in page
        assert "def loss" in page or "def fit" in page or ">loss<" in page or ">fit<" in page
    assert "--checkpoint-every" in (site / "reference" / "realmix-train" / "index.html").read_text()
    assert "--labels-from" in (site / "reference" / "realmix-data" / "index.html").read_text()
    assert "realmix-train" in (site / "notebooks" / "foreign" / "index.html").read_text()


def test_every_name_of_the_package_is_in_the_reference(site):
    page = (site / "reference" / "python" / "index.html").read_text()
    missing = [name for name in realmix.__all__ if not re.search(rf'id="[\w.]+\.{name}"', page)]
    assert missing == ["__version__"]
