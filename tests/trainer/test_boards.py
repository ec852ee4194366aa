"""Pictures of batches and confusion, and that every tracker that is asked for gets what TensorBoard gets."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stores.errors import RealMixError
from trainer.config import RunConfig
from trainer.contract import Batch
from trainer.runs.run_dir import Run
from trainer.runs.trackers import curves, pictures

ROWS = "rows: true classes, columns: predicted ones, from the top and from the left: "


def test_a_grid_shows_every_view_of_the_first_samples():
    pixels = torch.arange(2 * 20 * 3 * 8 * 8).remainder(256).view(2, 20, 3, 8, 8)
    sheet = pictures.grid([(view / 127.5 - 1) for view in pixels])
    cell = 8 * 8 + 2  # 8 pixels, eight-fold, and the gap
    assert sheet.shape == (2 * cell + 2, 16 * cell + 2, 3)
    for view in range(2):
        for sample in (0, 3, 15):
            top, left = view * cell + 2, sample * cell + 2
            shown = sheet[top : top + 64 : 8, left : left + 64 : 8]
            np.testing.assert_array_equal(shown, pixels[view, sample].permute(1, 2, 0).numpy())
            assert (sheet[top - 1, left : left + 64] == pictures.GREY).all()


def test_the_heat_map_is_pale_for_nothing_and_blue_for_a_whole_row():
    shown = pictures.heat_map(np.array([[4, 0], [1, 1]]))
    assert shown.shape == (64, 64, 3)
    assert tuple(shown[0, 0]) == pictures.RAMP[1]
    assert tuple(shown[0, 63]) == pictures.RAMP[0]
    np.testing.assert_allclose(shown[63, 0], np.mean(pictures.RAMP, axis=0), atol=1)
    assert pictures.heat_map(np.zeros((100, 100), int)).shape == (600, 600, 3)


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package: what it is told, in `said`."""
    fake = ModuleType("wandb")
    fake.__spec__ = SimpleNamespace(name="wandb")
    fake.said, fake.Error, fake.Image = (
        [],
        type("Error", (Exception,), {}),
        lambda pixels, caption: ("image", pixels.shape, caption),
    )

    def init(**given):
        fake.said.append(("init", given))
        return SimpleNamespace(
            define_metric=lambda name, step_metric: fake.said.append(("metric", step_metric)),
            log=lambda values: fake.said.append(("log", values)),
            finish=lambda: fake.said.append(("finish", None)),
        )

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_curves_pictures_and_the_runs_own_id(tmp_path, wandb):
    run = RunConfig(tensorboard=False, wandb=True)
    board = curves.Curves(Run(tmp_path, {"run": {"lr": 1}}), 0, run)
    board.add({"kind": "train", "step": 3, "loss": 0.5})
    board.batch(Batch(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)), 1)
    board.confusion(torch.eye(2, dtype=torch.int64), ("cat", "dog"), 4)
    board.close()
    again = curves.Curves(Run(tmp_path, {}), 4, run)
    again.close()
    given = [what for kind, what in wandb.said if kind == "init"]
    assert (given[0]["name"], given[0]["config"]) == (tmp_path.name, {"run": {"lr": 1}})
    assert given[0]["id"] == given[1]["id"] != ""
    assert [what for kind, what in wandb.said if kind == "log"] == [
        {"step": 3, "train/loss": 0.5},
        {"step": 1, "batch/labeled": ("image", (68, 134, 3), None)},
        {"step": 4, "eval/confusion": ("image", (64, 64, 3), f"{ROWS}cat, dog")},
    ]
    assert wandb.said[-1] == ("finish", None)


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """The real client, on files."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    return mlflow


def fill(board: curves.Curves, step: int) -> None:
    board.add({"kind": "train", "step": step, "loss": 0.5 / step, "ood_recall": 0.25, "data_wait": 0.0})
    board.confusion(torch.eye(2, dtype=torch.int64), ("cat", "d\x1bog"), step)
    board.close()


def test_mlflow_gets_curves_pictures_and_settings_and_a_resumed_run_goes_on(tmp_path, mlflow):
    folder, run = tmp_path / "digits_1", RunConfig(tensorboard=False, mlflow=True)
    folder.mkdir()
    fill(curves.Curves(Run(folder, {"run": {"lr": 1, "model": "x" * 9000}}), 0, run), 2)
    fill(curves.Curves(Run(folder, {"run": {"lr": 1}}), 2, run), 4)
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("realmix").experiment_id])
    assert (found.info.run_name, found.info.status) == ("digits_1", "FINISHED")
    assert found.data.params["run.lr"] == "1"
    number = found.info.run_id
    for name, values in (("train/loss", [0.25, 0.125]), ("foreign/recall", [0.25] * 2), ("time/data_wait", [0.0] * 2)):
        assert [(m.step, m.value) for m in client.get_metric_history(number, name)] == list(
            zip((2, 4), values, strict=True)
        )
    assert [Path(file.path).name for file in client.list_artifacts(number, "eval")] == [
        "confusion-0000002.png",
        "confusion-0000004.png",
    ]
    shown = np.asarray(
        Image.open(
            tmp_path / "mlruns" / found.info.experiment_id / number / "artifacts" / "eval" / "confusion-0000002.png"
        )
    )
    np.testing.assert_array_equal(shown, pictures.heat_map(np.eye(2, dtype=int)))


def test_mlflow_that_stops_answering_ends_no_run(tmp_path, mlflow, capfd):
    board = curves.Curves(Run(tmp_path, {}), 0, RunConfig(tensorboard=False, mlflow=True))
    (experiment,) = [folder for folder in (tmp_path / "mlruns").iterdir() if len(folder.name) > 6]
    shutil.rmtree(experiment)
    fill(board, 2)
    assert capfd.readouterr().err.count("MLflow gets no more curves") == 1


def test_mlflow_that_cannot_be_used_says_so(tmp_path, mlflow, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    with pytest.raises(RealMixError, match="MLflow cannot be used") as caught:
        curves.Curves(Run(tmp_path, {}), 0, RunConfig(tensorboard=False, mlflow=True))
    assert "MLFLOW_TRACKING_URI" in caught.value.hint


def test_trackio_gets_curves_pictures_and_one_name_a_run(tmp_path, monkeypatch, capfd):
    """A stand-in for the package, which wants another Pillow than the other tests."""
    said, fake = [], ModuleType("trackio")

    def init(**given):
        print("noise")
        said.append(given)
        log = lambda values, step: said.append((step, values))  # noqa: E731
        return SimpleNamespace(log=log)

    fake.init, fake.finish, fake.Image = (
        init,
        lambda: said.append("finish"),
        lambda pixels, caption: (pixels.shape, caption),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    folder, run = tmp_path / "digits_1", RunConfig(tensorboard=False, trackio=True)
    folder.mkdir()
    fill(curves.Curves(Run(folder, {"run": {"lr": 1}}), 0, run), 2)
    fill(curves.Curves(Run(folder, {"run": {"lr": 1}}), 2, run), 4)
    first, *logged, _, second, _, _, _ = said
    assert first == second
    assert re.fullmatch(r"digits_1-[0-9a-f]{6}", first["name"])
    assert (first["project"], first["resume"], first["config"]) == ("realmix", "allow", {"run.lr": 1})
    assert logged == [
        (2, {"train/loss": 0.25, "foreign/recall": 0.25, "time/data_wait": 0.0}),
        (2, {"eval/confusion": ((64, 64, 3), rf"{ROWS}cat, d\x1bog")}),
    ]
    assert capfd.readouterr().out == "", "stdout is for results"


def test_wandb_that_refuses_says_how_to_go_on(tmp_path, wandb):
    def refuse(**_):
        raise wandb.Error("no API key")

    wandb.init = refuse
    with pytest.raises(RealMixError, match="no API key") as caught:
        curves.Curves(Run(tmp_path, {}), 0, RunConfig(tensorboard=False, wandb=True))
    assert f"--resume {tmp_path}" in caught.value.hint


def test_trackers_are_never_imported_unless_asked(command, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package in curves.EXTRAS:
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    small = ["--store", trained / "stores" / "strange", "--model", "wrn-10-1", "--batch", "4", "--steps", "1"]
    small += ["--device", "cpu", "--threads", "1", "--quiet"]
    for package in curves.EXTRAS:
        code, out, err = command(*small, f"--{package}")
        assert (code, out, f"realmix[{package}]" in err) == (2, "", True)
    assert list(tmp_path.iterdir()) == []
    assert command(*small, "--name", "plain")[0] == 0
    recorded = json.loads((tmp_path / "runs/plain/config.json").read_text())["run"]
    assert [recorded[package] for package in curves.EXTRAS] == [False] * 3


def test_tensorboard_pictures_are_png(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = curves.Curves(Run(tmp_path, {}), 0, RunConfig())
    board.confusion(torch.tensor([[3, 1], [0, 4]]), ("cat", "dog"), 5)
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert "cat, dog" in events.SummaryMetadata("eval/confusion").summary_description
    (event,) = events.Images("eval/confusion")
    image = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    np.testing.assert_array_equal(image, pictures.heat_map(np.array([[3, 1], [0, 4]])))


def test_tensorboard_goes_on_where_an_earlier_version_wrote(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    fill(curves.Curves(Run(tmp_path, {}), 0, RunConfig()), 2)
    assert list(tmp_path.glob("events*")) == []
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 1
