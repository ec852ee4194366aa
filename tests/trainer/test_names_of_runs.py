"""A second experiment gets a name of its own; the same one again is told that it exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.data import memory

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


def test_a_mistake_is_told_before_that_the_run_exists(command: Any, tiny: Path) -> None:
    words = ["--store", tiny.with_name("tiny_20"), *SMALL[2:], "--name", "one"]
    assert command(*words, "--model", "wrn-10-1")[0] == 0
    code, _, err = command(*words, "--model", "wrn-11-1x")
    assert (code, "unknown model 'wrn-11-1x'" in err, "exists" in err) == (2, True, False)


def test_a_batch_that_cannot_fit_is_refused_with_what_it_takes(command: Any, tiny: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 1 << 30)
    words = ("--store", tiny.with_name("tiny_20"), "--model", "wrn-10-1", "--steps", 2, "--device", "cpu")
    code, out, err = command(*words, "--batch", 100_000)
    assert (code, out) == (5, "")
    assert "a step of 100,000 labelled images takes at least " in err
    assert "300,000 images go through wrn-10-1, and 1.0 GiB are free" in err
    fits = int(err.rsplit("--batch ", 1)[1])
    assert 2 <= fits < 50_000
    assert not Path("runs").exists()
