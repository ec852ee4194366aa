"""A finished run that is made longer goes on as if it had been planned so, its schedules at their end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_resume import assert_equal

from stores.errors import StoreError, UsageError
from trainer import api
from trainer.functional import schedules
from trainer.runs import checkpoint, longer, weights

SETTINGS = ["eval_every=4", "checkpoint_every=2", "log_every=4", "batch=8", "precision=fp32", "tensorboard=false"]
SETTINGS += ["bn_momentum=0.1", "ema_decay=0.9", "lr_schedule=cosine", "tsa=linear", "rampup_steps=10", "eval_raw=true"]


def start(split: Path, runs: Path, steps: int, *more: str, **flags: Any) -> Path:
    given = {"store": str(split), "model": "wrn-10-1", "steps": steps, "threads": 1, "device": "cpu"} | flags
    return api.train([*SETTINGS, *more], given, runs, "run", quiet=True)[0]


@pytest.fixture(scope="module")
def split(tiny: Path) -> Path:
    return tiny.with_name("tiny_20")


def test_bit_for_bit_the_longer_run_with_the_shorter_schedules(split: Path, tmp_path: Path) -> None:
    planned = start(split, tmp_path / "planned", 12, "schedule_steps=4")
    path = start(split, tmp_path / "extended", 4)
    before = {name: (path / name).read_bytes() for name in ("result.json", weights.FILE)}
    _, result = api.resume(path, steps=12, quiet=True)
    assert result["steps"] == 12
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert_equal(path, planned)
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    last = schedules.learning_rate("cosine", json.loads((path / "config.json").read_text())["run"]["lr"], 4, 4)
    assert rates[1:] == [last, last], "the cosine stays where it ended"
    assert (path / "result_4.json").read_bytes() == before["result.json"], "nothing is lost"
    assert (path / "model_4.safetensors").read_bytes() == before[weights.FILE]
    assert "schedules stay where 4 steps left them" in json.loads((path / "config.json").read_text())["deviations"][-1]


@pytest.mark.parametrize("where", ["result.json", weights.FILE, "config.json"])
def test_killed_while_it_is_made_longer_it_is_one_or_the_other(
    where: str, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = start(split, tmp_path / "cut", 4)
    whole = start(split, tmp_path / "whole", 4)
    rename, write = Path.rename, longer.write_json

    def killed_before_rename(self: Path, target: Path) -> Path:
        if self.name == where:
            raise KeyboardInterrupt
        return rename(self, target)

    def killed_before_writing(file: Path, content: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    if where == "config.json":
        monkeypatch.setattr(longer, "write_json", killed_before_writing)
    monkeypatch.setattr(Path, "rename", killed_before_rename)
    with pytest.raises(KeyboardInterrupt):
        api.resume(path, steps=8, quiet=True)
    monkeypatch.undo()
    assert longer.write_json is write
    api.resume(path, quiet=True)
    for kept in path.glob("*_4.*"):
        kept.unlink()
    assert_equal(path, whole)


def test_what_cannot_be_made_longer_stays_as_it_is(split: Path, tmp_path: Path) -> None:
    path = start(split, tmp_path, 4)
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    with pytest.raises(UsageError, match=r"has a length of 4 steps\n.*not shorter"):
        api.resume(path, steps=3, quiet=True)
    (path / checkpoint.FILE).rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="has no checkpoint"):
        api.resume(path, steps=8, quiet=True)
    (tmp_path / "elsewhere").rename(path / checkpoint.FILE)
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} == before


def test_on_the_command_line(command: Any, split: Path, tmp_path: Path) -> None:
    path = start(split, tmp_path, 4)
    code, out, err = command("--resume", path)
    assert (code, out.startswith(f"{path}: error ")) == (0, True)
    assert f"{path} is finished: 4 of 4 steps\n→ `realmix-train --resume {path} --steps 8` makes it longer" in err
    code, out, err = command("--resume", path, "--steps", 6)
    assert (code, "steps 6)" in out, "continued at step 4" in err) == (0, True, True)
    code, _, err = command("--resume", path, "--steps", 8, "--batch", 4)
    assert (code, "--batch cannot be given with --resume" in err) == (2, True)
