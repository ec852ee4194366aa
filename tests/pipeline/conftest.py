"""`realmix-data`, called in this process."""

from __future__ import annotations

import shlex
import sys

import pytest

from pipeline import cli


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """Run `realmix-data` in an empty folder and return its standard output; it must succeed."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        monkeypatch.setattr(sys, "argv", ["realmix-data", *shlex.split(line)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        assert not left.value.code, err
        return out

    return run
