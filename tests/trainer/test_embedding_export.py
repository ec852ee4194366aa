"""What was trained on embeddings, used on images: the backbone below it, as one file or found again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch

from networks.pretrained import load_backbone
from pipeline.embedding.job import Request, embed
from stores import open_store
from stores.errors import IntegrityError, RealMixError, UsageError
from trainer import api
from trainer.data.embedded import EmbeddedSplit, samples_of
from trainer.data.split import open_split
from trainer.evaluation import scorer
from trainer.inference import onnx_graph
from trainer.inference.embedding import from_images
from trainer.inference.export import export
from trainer.inference.model import load_model
from trainer.runs import weights
from trainer.runs.run_dir import open_run

NAME, SIZE = "timm:mobilenetv3_small_050", 32


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A split store with embeddings of its images under a small random network, and the file of that network."""
    root = tmp_path_factory.mktemp("exported")
    shutil.copytree(tiny.parent, root / "stores")
    torch.manual_seed(5)
    file = root / "net.safetensors"
    tensors = {key: t.contiguous() for key, t in load_backbone(NAME, "none", SIZE).net.state_dict().items()}
    safetensors.torch.save_file(tensors, file)
    embed(open_store(root / "stores/tiny"), Request(NAME, str(file), SIZE, copies=0, device="cpu", name="mobile"))
    return root / "stores/tiny_20", file


@pytest.fixture(scope="module")
def run(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {"store": str(made[0]), "embeddings": "mobile", "method": "mixmatch", "steps": 20, "batch": 8}
    return api.train(["threads=1"], {**flags, "device": "cpu"}, tmp_path_factory.mktemp("runs"), quiet=True)[0]


def expected(split: Path, run: Path) -> np.ndarray:
    """What the run's network says of the stored embeddings of the test images."""
    trained = weights.of_run(open_run(run))
    assert trained.embedding is not None
    rows = samples_of(EmbeddedSplit(open_split(str(split)), "mobile")).test.read()
    return trained.model(torch.from_numpy(rows)).softmax(1).numpy()


def test_the_export_classifies_images(made: Any, run: Path, tmp_path: Path) -> None:
    split, file = made
    export(open_run(run), tmp_path / "out", False, str(file))
    images = open_store(split).dataset.test_images.read()
    said = load_model(tmp_path / "out").predict(images)
    np.testing.assert_allclose(said.probabilities, expected(split, run), atol=0.02)
    assert said.probabilities.std(0).max() > 0.01, "the images make a difference"
    assert said.ood_scores is not None
    rows = EmbeddedSplit(open_split(str(split)), "mobile").embeddings.test.read().astype(np.float64)
    own = scorer.find(run)
    assert own is not None
    np.testing.assert_allclose(said.ood_scores, own.score(rows), atol=0.05)
    assert load_model(run, weights=file).predict(images).probabilities == pytest.approx(said.probabilities, abs=1e-5)


def test_one_graph_of_backbone_and_classifier_says_what_predict_says(made: Any, tmp_path: Path) -> None:
    """Of a table of neighbours, which is more than a product."""
    split, file = made
    flags = {"store": str(split), "embeddings": "mobile", "method": "label_spreading", "device": "cpu"}
    run = api.train([], flags, tmp_path, quiet=True)[0]
    export(open_run(run), tmp_path / "out", True, str(file))
    images = open_store(split).dataset.test_images.read()
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(None, {"images": images})
    said = load_model(run, weights=file).predict(images)
    np.testing.assert_allclose(probabilities, said.probabilities, atol=1e-4)
    assert logits.shape == (len(images), len(said.class_names)) and said.labels.tolist() == logits.argmax(1).tolist()


def test_what_has_no_graph_is_one_clear_error(made: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = from_images(weights.of_run(open_run(run)), str(made[1]))
    monkeypatch.setattr(
        trained.model, "forward", lambda images: images.mean((2, 3)) @ torch.linalg.eigh(images[0])[1][0]
    )
    with pytest.raises(RealMixError, match="cannot be written as an ONNX graph") as caught:
        onnx_graph.graph(trained)
    assert "without --onnx" in caught.value.hint


def test_weights_that_came_from_a_file_have_to_be_named(made: Any, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="weights of timm:mobilenetv3_small_050 are needed") as caught:
        load_model(run)
    assert "realmix-train export RUN --weights FILE" in str(caught.value)
    tensors = safetensors.torch.load_file(made[1])
    tensors = {key: t + 1 if t.is_floating_point() else t for key, t in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="not the ones that made the embeddings"):
        load_model(run, weights=tmp_path / "other.safetensors")


def test_an_export_whose_backbone_was_changed_is_damaged(made: Any, run: Path, tmp_path: Path) -> None:
    export(open_run(run), tmp_path / "out", False, str(made[1]))
    path = tmp_path / "out" / weights.FILE
    content = weights.read(path)
    name = next(key for key in content.tensors if key.startswith("backbone.net.") and key.endswith("weight"))
    content.tensors[name] = content.tensors[name] + 1
    metadata = {key: value for key, value in content.metadata.items() if key != "sha256"}
    safetensors.torch.save_file(content.tensors, path, metadata)
    with pytest.raises(IntegrityError, match="not the ones that made the embeddings"):
        load_model(path)


@pytest.mark.parametrize("change", [{"size": 0}, {"backbone": 3}, {"num_features": -1}])
def test_a_file_that_says_nonsense_of_its_embeddings(run: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    import json

    content = weights.read(run / weights.FILE)
    metadata = {key: value for key, value in content.metadata.items() if key != "sha256"}
    metadata["embedding"] = json.dumps(json.loads(metadata["embedding"]) | change)
    safetensors.torch.save_file(content.tensors, tmp_path / "x.safetensors", metadata)
    with pytest.raises(Exception, match="embedding"):
        weights.load(tmp_path / "x.safetensors")
