"""A second experiment gets a name of its own; the same one again is told that it exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SMALL = ("--model", "wrn-10-1", "--batch", 4, "--steps", 2, "--device", "cpu", "--threads", 1, "--quiet")
SMALL += ("--set", "precision=fp32", "--set", "tensorboard=false")


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_other_settings_are_another_name_and_the_same_ones_are_refused(command: Any, tiny: Path) -> None:
    def train(*more: Any) -> str:
        code, out, err = command("--store", tiny.with_name("tiny_20"), *SMALL, *more)
        return out.split(":")[0] if code == 0 else err

    assert train() == "runs/tiny_20_realmix_s1"
    assert train("--set", "gamma=0.6") == "runs/tiny_20_realmix_s1_gamma-0.6"
    assert train("--set", "gamma=0.6", "--set", "tsa=none") == "runs/tiny_20_realmix_s1_tsa-none_gamma-0.6"
    assert train("--steps", 3) == "runs/tiny_20_realmix_s1_steps-3", "not what follows from the length"
    assert train("--init", "runs/tiny_20_realmix_s1") == "runs/tiny_20_realmix_s1_init-tiny_20_realmix_s1"
    assert train("--seed", 2) == "runs/tiny_20_realmix_s2"
    found = sorted(path.name for path in Path("runs").iterdir())
    for again in ((), ("--set", "gamma=0.6"), ("--set", "realmix.gamma=0.6", "--set", "log_every=7")):
        assert "holds a finished run" in train(*again)
    assert "holds a finished run" in train("--name", "tiny_20_realmix_s1", "--set", "gamma=0.1")
    assert sorted(path.name for path in Path("runs").iterdir()) == found
