"""Both command lines explain themselves: help at 80 columns, examples, spellings, unknown options, completion."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import pipeline.cli
import trainer.cli
from stores.errors import UsageError
from stores.system.command_line import runs_here, stores_here
from trainer.commands import completion
from trainer.runs.run_dir import each_run

APPS = {"realmix-data": pipeline.cli.app, "realmix-train": trainer.cli.app}
COMMANDS = [
    (program, name)
    for program, app in APPS.items()
    for name in ("", *typer.main.get_command(app).commands)  # type: ignore[attr-defined]
]


def help_of(program: str, name: str) -> str:
    words = [*name.split(), "--help"]
    return CliRunner().invoke(APPS[program], words, env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_help_fits_and_names_no_type_of_python_and_has_an_example(program, name):
    said = help_of(program, name)
    assert "--help" in said
    assert max(map(len, said.splitlines())) <= 80
    assert "…\n" not in said, "cut off"
    assert re.findall(r"<\w.*?>|list\[|\bpath\b *│|INTEGER|BOOLEAN", said) == []
    (example,) = re.findall(rf"Example: ({program}(?:.|\n)*?)\n *\n", said)
    words = shlex.split(example)
    assert words[0] == program
    assert not name or words[1] == name


def test_the_common_options_come_first():
    said = help_of("realmix-train", "")
    places = [said.index(text) for text in ("--store", "--method", "--steps", "─ Data ─", "─ Evaluation and curves ─")]
    assert places == sorted(places)
    said = help_of("realmix-data", "build")
    places = [
        said.index(text) for text in ("--unlabeled", "--test", "--size", "--labels ", "─ More about the images ─")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("spelled", ["--unlabeled", "--unlabelled"])
def test_both_spellings_are_understood(spelled, tmp_path):
    done = CliRunner().invoke(pipeline.cli.app, ["plan", "digits", spelled, str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert "--unlabeled is for: folder" in str(done.exception)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--epochs", "--steps N"),
        ("--lr", "--set lr=VALUE"),
        ("--weight-decay", "--set weight_decay=VALUE"),
        ("--gamma", "a setting of realmix: --set gamma=VALUE"),
        ("--stor", "did you mean --store?"),
        ("--batch-size", "--batch N"),
    ],
)
def test_an_option_that_does_not_exist_is_told_what_does_the_same(option, hint):
    words = [sys.executable, "-m", "trainer", "--store", "x", option, "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: there is no option '{option}'\n→ " in done.stderr
    assert hint in done.stderr


def test_completion_offers_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("stores/cats", "stores/cats_20", "stores/dogs", "elsewhere/cats"):
        Path(name).mkdir(parents=True)
        Path(name, "zarr.json").touch()
    Path("runs/one").mkdir(parents=True)
    Path("runs/one/config.json").touch()
    assert stores_here("stores/ca") == ["stores/cats", "stores/cats_20"]
    assert stores_here("") == ["stores/cats", "stores/cats_20", "stores/dogs"]
    assert stores_here("elsewhere/") == ["elsewhere/cats"]
    assert runs_here("") == ["runs/one"]
    assert completion.methods("real") == ["realmix"]
    assert completion.networks("wrn-10") == ["wrn-10-1", "wrn-10-2"]
    assert completion.settings("ema") == ["ema_decay="]
    assert "table1" in completion.recipes("tab")


def test_a_folder_of_runs_stands_for_them(tmp_path):
    for name in ("b", "a", "stray"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "config.json").touch()
    assert each_run([tmp_path]) == [tmp_path / "a", tmp_path / "b"]
    assert each_run([tmp_path / "b", tmp_path / "stray"]) == [tmp_path / "b", tmp_path / "stray"]
