"""The command line: one clear error for each mistake, nothing changed on disk, and a last line that says it all."""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import pytest
import torch

from stores.errors import ResourceError
from trainer import cli
from trainer.data import memory
from trainer.runs import console

SMALL = ["--model", "wrn-10-1", "--batch", "4", "--steps", "3", "--device", "cpu", "--threads", "1"]
SMALL += ["--eval-every", "2", "--set", "precision=fp32", "--set", "tensorboard=false"]


@pytest.fixture
def split(tiny):
    return tiny.with_name("tiny_20")


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_run_from_a_real_store_ends_in_a_line_that_names_it_and_its_error(command, split, tmp_path):
    code, out, err = command("--store", split, *SMALL)
    assert code == 0
    assert re.fullmatch(r"runs/tiny_20_realmix_s1: error \d+\.\d\d % \(median of last 2: \d+\.\d\d %, steps 3\)\n", out)
    assert "20 labelled, 130 unlabelled × 5 copies (without the labelled ones)" in err
    assert "copies drawn from images in memory (0.1 MiB)" in err
    assert "differs ema_decay" in err
    run = tmp_path / "runs" / "tiny_20_realmix_s1"
    config = json.loads((run / "config.json").read_text())
    assert config["store"]["fingerprint"] == json.loads((run / "result.json").read_text())["store_fingerprint"]
    assert config["run"]["threads"] == 1
    assert config["settings"]["gamma"] == 0
    assert config["versions"]["torch"] == torch.__version__

    code, again, _ = command("--resume", "runs/tiny_20_realmix_s1")
    assert (code, again) == (0, out), "a finished run says its last line again"

    before = {path.name: path.read_bytes() for path in run.iterdir()}
    code, _, err = command("--store", split, *SMALL)
    assert code == 2
    assert "finished run" in err
    assert "--name" in err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_json_is_all_that_stdout_gets_and_quiet_leaves_the_last_line(command, split):
    code, out, err = command("--store", split, *SMALL, "--method", "supervised", "--json", "--quiet", "--name", "one")
    result = json.loads(out)
    assert (code, result["run"], result["steps"], result["method"]) == (0, "runs/one", 3, "supervised")
    assert err.startswith("runs/one: error ")
    assert err.count("\n") == 1


def test_tensorboard_holds_the_curves(command, split, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert command("--store", split, *SMALL, "--set", "tensorboard=true", "--quiet", "--name", "one")[0] == 0
    events = EventAccumulator(str(tmp_path / "runs/one"))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/test_error")] == [2, 3]
    assert {"train/loss", "train/loss_u", "train/weight_u"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"batch/labeled", "batch/unlabeled", "eval/confusion"}
    assert [event.step for event in events.Images("batch/unlabeled")] == [1, 3]
    assert [event.step for event in events.Images("eval/confusion")] == [2, 3]
    shown = events.Images("batch/unlabeled")[0]
    assert (shown.width, shown.height) == (4 * 62 + 2, 2 * 62 + 2)  # four samples, two views, 12 pixels five-fold


MISTAKES = [
    (["--method", "realmx"], 2, ["unknown method 'realmx'", "did you mean realmix?"]),
    (["--set", "gama=.5"], 2, ["unknown setting 'gama'", "did you mean gamma?", "realmix-train methods realmix"]),
    (["--set", "gamma=2"], 2, ["gamma", "2"]),
    (["--set", "gamma"], 2, ["no key=value"]),
    (["--model", "resnet"], 2, ["unknown model 'resnet'", "wrn-28-2"]),
    (["--steps", "0"], 2, ["'steps' must be at least 1"]),
    (["--steps", "many"], 2, ["--steps"]),
    (["--copies", "0"], 2, ["'copies' must be at least 1"]),
    (["--copies", "6"], 2, ["--copies 6", "holds 5"]),
    (["--device", "tpu"], 2, ["auto or cpu or cuda"]),
    (["--feed", "disk"], 2, ["auto or resident or device or host or mapped or stream"]),
    (["--window", "much"], 2, ["'much' is no size", "512MiB"]),
    (["--feed", "stream", "--window", "1kB"], 2, ["a window of 0.0 MiB is too small", "--window takes more"]),
    (["--feed", "stream", "--set", "pool=drawn"], 2, ["takes copies as they were stored"]),
    (["--name", "../elsewhere"], 2, ["../elsewhere"]),
    (["--set", "shift=12"], 2, ["shift"]),
    (["--no-such-flag"], 2, ["--no-such-flag"]),
]


@pytest.mark.parametrize(("words", "code", "said"), MISTAKES, ids=[" ".join(words) for words, _, _ in MISTAKES])
def test_a_mistake_is_one_error_and_leaves_no_trace(command, split, tmp_path, words, code, said):
    got, out, err = command("--store", split, *SMALL, *words)
    assert (got, out) == (code, "")
    assert "Traceback" not in err
    for text in said:
        assert text in err
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_none_is_refused(command, tiny, tmp_path):
    code, _, err = command("--store", tiny.with_name("tiny_21"), *SMALL)
    assert (code, "tiny_20" in err) == (3, True)
    code, _, err = command("--store", tiny, *SMALL)
    assert code == 3
    assert "is a dataset store" in err
    assert "its splits: tiny_20" in err
    code, _, err = command(*SMALL)
    assert (code, "--store is missing" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu_is_refused(command, split, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = command("--store", split, *SMALL, "--device", "cuda")
    assert (code, "no CUDA device" in err) == (2, True)


def test_too_little_memory_is_exit_code_5(command, split, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "free_memory", lambda home: 1000)
    code, _, err = command("--store", split, *SMALL, "--feed", "host")
    assert (code, "--copies" in err) == (ResourceError.exit_code, True)
    assert list(tmp_path.iterdir()) == []


def test_resume_takes_no_settings_and_needs_a_run(command, tmp_path):
    code, _, err = command("--resume", "runs/x", "--steps", "5", "--set", "lr=1", "--eval-every", "3")
    assert code == 2
    assert "--eval-every, --set cannot be given with --resume" in err
    (tmp_path / "runs" / "other").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "config.json").write_text("{")
    code, _, err = command("--resume", "runs/x")
    assert (code, "is no run" in err, "other" in err) == (3, True, True)
    code, _, err = command("--resume", "runs/other")
    assert (code, "is damaged" in err) == (4, True)


def test_methods_lists_every_setting(command):
    code, out, _ = command("methods")
    assert code == 0
    for word in ("realmix", "supervised", "rampup_steps", "weight_decay", "preset svhn"):
        assert word in out
    code, out, _ = command("methods", "realmix", "--json")
    listed = json.loads(out)
    assert list(listed["methods"]) == ["realmix"]
    settings = {row["name"]: row["default"] for row in listed["methods"]["realmix"]["settings"]}
    assert settings["alpha"] == 0.75
    assert {row["name"] for row in listed["run"]} >= {"lr", "steps", "copies"}
    code, _, err = command("methods", "fixmatch-")
    assert (code, "unknown method" in err) == (2, True)


def test_debug_shows_the_traceback(command, split, monkeypatch):
    from stores.errors import UsageError

    monkeypatch.setenv("REALMIX_DEBUG", "")  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["realmix-train", "--store", str(split), "--method", "x", "--debug"])
    with pytest.raises(UsageError):
        cli.main()
    assert os.environ["REALMIX_DEBUG"] == "1"


def test_version_and_help(command):
    assert command("--version")[1].startswith("realmix 0.")
    code, out, _ = command("--help")
    assert code == 0
    for flag in ("--store", "--resume", "--set", "methods"):
        assert flag in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.4, "0:07"), (187, "3:07"), (3723, "1:02:03"), (5 * 86400 + 3 * 3600, "5 d 3 h"), (np.inf, "?")],
)
def test_durations(seconds, text):
    assert console.duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the console sees: a list of one."""
    now = [0.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    return now


LINE = "step 300/1,000 · error 12.50 % · 1:10 to go · loss 1.5 · loss_u 0.01 · 1,920 img/s · data wait 10 %"


@pytest.mark.parametrize(("pace", "told"), [(0.001, []), (2.0, ["in 9990 s"])])
def test_after_the_first_steps_it_is_said_once_how_long_the_run_takes(clock, capfd, pace, told):
    shown = console.Console(steps=5007, start=7, images_per_step=192, estimate=lambda seconds: f"in {seconds:.0f} s")
    for step in range(8, 27):
        clock[0] += 600.0 if step == 8 else pace  # the first step compiles: it says nothing about the others
        shown.tick(step, 0.0)
        assert ("to go" in shown.line()) == (step > 9)
    assert capfd.readouterr().err.splitlines() == told


def test_the_progress_line_leaves_out_the_least_important(clock):
    shown = console.Console(steps=1000, start=200, images_per_step=192, quiet=True)
    shown.logged({"kind": "train", "step": 300, "loss": 1.5, "loss_u": 0.01, "lr": 0.002})
    shown.evaluated({"step": 300, "test_error": 12.5})
    clock[0] = 10.0
    shown.tick(300, 1.0)
    assert shown.line() == LINE
    parts = LINE.split(" · ")
    for kept in range(1, len(parts) + 1):
        line = " · ".join(parts[:kept])
        assert shown.line(len(line)) == line
        assert shown.line(len(line) - 1) == " · ".join(parts[: max(1, kept - 1)])


def follow(clock) -> None:
    """Ninety steps of a second, an evaluation after every thirty."""
    with console.Console(steps=90, start=0, images_per_step=3) as shown:
        for step in range(1, 91):
            clock[0] += 1.0
            shown.tick(step, 0.0)
            if step % 30 == 0:
                shown.logged({"step": step, "loss": 123.4567, "loss_x": 100.1234, "loss_u": 0.0123, "loss_s": 23.45})
                shown.evaluated({"step": step, "test_error": 50.0, "valid_error": 49.5})


def test_in_a_file_there_is_one_line_an_evaluation(clock, capfd):
    follow(clock)
    rest = "loss 123 · loss_x 100 · loss_u 0.0123 · loss_s 23.4 · 3 img/s · data wait 0 %"
    assert capfd.readouterr().err.splitlines() == [
        f"step 30/90 · error 50.00 %, valid 49.50 % · 1:00 to go · {rest}",
        f"step 60/90 · error 50.00 %, valid 49.50 % · 0:30 to go · {rest}",
        f"step 90/90 · error 50.00 %, valid 49.50 % · {rest}",
    ]


def test_on_a_terminal_of_80_columns_the_bar_and_the_error_stay(clock, capfd, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    follow(clock)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err).replace("\r", "\n").splitlines()
    assert max(map(len, shown)) <= 80
    bars = [line for line in shown if "━" in line]
    assert len(bars) >= 88, "redrawn with every step"
    assert all("error 50.00 %" in line and "to go" in line for line in bars[40:85])
    assert sum(line.startswith("step ") for line in shown) == 3, "the evaluations"
