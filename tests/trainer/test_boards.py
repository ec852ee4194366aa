"""Pictures of batches and confusion, and that wandb is asked for and sent what TensorBoard gets."""

from __future__ import annotations

import io
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stores.errors import RealMixError
from trainer.config import RunConfig
from trainer.contract import Batch
from trainer.runs import trackers
from trainer.runs.run_dir import Run


def test_a_grid_shows_every_view_of_the_first_samples():
    pixels = torch.arange(2 * 20 * 3 * 8 * 8).remainder(256).view(2, 20, 3, 8, 8)
    sheet = trackers.grid([(view / 127.5 - 1) for view in pixels])
    cell = 8 * 8 + 2  # 8 pixels, eight-fold, and the gap
    assert sheet.shape == (2 * cell + 2, 16 * cell + 2, 3)
    for view in range(2):
        for sample in (0, 3, 15):
            top, left = view * cell + 2, sample * cell + 2
            shown = sheet[top : top + 64 : 8, left : left + 64 : 8]
            np.testing.assert_array_equal(shown, pixels[view, sample].permute(1, 2, 0).numpy())
            assert (sheet[top - 1, left : left + 64] == trackers.GREY).all()


def test_the_heat_map_is_pale_for_nothing_and_blue_for_a_whole_row():
    shown = trackers.heat_map(np.array([[4, 0], [1, 1]]))
    assert shown.shape == (64, 64, 3)
    assert tuple(shown[0, 0]) == trackers.RAMP[1]
    assert tuple(shown[0, 63]) == trackers.RAMP[0]
    np.testing.assert_allclose(shown[63, 0], np.mean(trackers.RAMP, axis=0), atol=1)
    assert trackers.heat_map(np.zeros((100, 100), int)).shape == (600, 600, 3)


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package: what it is told, in `said`."""
    fake = ModuleType("wandb")
    fake.__spec__ = SimpleNamespace(name="wandb")
    fake.said, fake.Error, fake.Image = [], type("Error", (Exception,), {}), lambda pixels: ("image", pixels.shape)

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
    curves = trackers.Curves(Run(tmp_path, {"run": {"lr": 1}}), 0, run)
    curves.add({"kind": "train", "step": 3, "loss": 0.5})
    curves.batch(Batch(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)), 1)
    curves.confusion(torch.eye(2, dtype=torch.int64), 4)
    curves.close()
    again = trackers.Curves(Run(tmp_path, {}), 4, run)
    again.close()
    given = [what for kind, what in wandb.said if kind == "init"]
    assert (given[0]["name"], given[0]["config"]) == (tmp_path.name, {"run": {"lr": 1}})
    assert given[0]["id"] == given[1]["id"] != ""
    assert [what for kind, what in wandb.said if kind == "log"] == [
        {"step": 3, "train/loss": 0.5},
        {"step": 1, "batch/labeled": ("image", (68, 134, 3))},
        {"step": 4, "eval/confusion": ("image", (64, 64, 3))},
    ]
    assert wandb.said[-1] == ("finish", None)


def test_wandb_that_refuses_says_how_to_go_on(tmp_path, wandb):
    def refuse(**_):
        raise wandb.Error("no API key")

    wandb.init = refuse
    with pytest.raises(RealMixError, match="no API key") as caught:
        trackers.Curves(Run(tmp_path, {}), 0, RunConfig(tensorboard=False, wandb=True))
    assert f"--resume {tmp_path}" in caught.value.hint


def test_wandb_is_never_imported_unless_asked(command, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    small = ["--store", trained / "stores" / "strange", "--model", "wrn-10-1", "--batch", "4", "--steps", "1"]
    small += ["--device", "cpu", "--threads", "1", "--quiet"]
    code, out, err = command(*small, "--wandb")
    assert (code, out, "realmix[wandb]" in err) == (2, "", True)
    assert list(tmp_path.iterdir()) == []
    assert command(*small, "--name", "plain")[0] == 0
    assert json.loads((tmp_path / "runs/plain/config.json").read_text())["run"]["wandb"] is False


def test_tensorboard_pictures_are_png(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = trackers.Curves(Run(tmp_path, {}), 0, RunConfig())
    curves.confusion(torch.tensor([[3, 1], [0, 4]]), 5)
    curves.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Images("eval/confusion")
    image = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    np.testing.assert_array_equal(image, trackers.heat_map(np.array([[3, 1], [0, 4]])))
