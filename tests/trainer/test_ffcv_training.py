"""Training from a store in FFCV's format is training from the zarr store, bit for bit."""

from __future__ import annotations

from trainer import api
from trainer.runs import weights

SETTINGS = ["eval_every=3", "batch=8", "precision=fp32", "tensorboard=false"]


def test_either_format_trains_the_same_model(tiny, tiny_ffcv, tmp_path):
    assert not (tiny_ffcv / "copies" / "images").exists()
    trained = []
    for dataset in (tiny, tiny_ffcv):
        flags = {
            "store": str(dataset.with_name("tiny_20")),
            "model": "wrn-10-1",
            "steps": 3,
            "threads": 1,
            "device": "cpu",
        }
        run, _ = api.train(SETTINGS, flags, tmp_path / "runs" / str(len(trained)), "run", quiet=True)
        trained.append((run / weights.FILE).read_bytes())
    assert trained[0] == trained[1]
