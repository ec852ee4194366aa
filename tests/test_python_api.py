"""`import realmix`: what a stranger can do with it, and that asking for it costs nothing."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import realmix
from stores.errors import IntegrityError, StoreError, UsageError

SMALL = {"model": "wrn-10-1", "batch": 4, "device": "cpu", "precision": "fp32", "threads": 1, "tensorboard": False}


@pytest.fixture(scope="module")
def split(tiny) -> realmix.SplitStore:
    opened = realmix.open_store(tiny.with_name("tiny_20"))
    assert isinstance(opened, realmix.SplitStore)
    return opened


@pytest.fixture(scope="module")
def run(split, tmp_path_factory) -> realmix.Run:
    folder = tmp_path_factory.mktemp("runs")
    return realmix.train(split, steps=4, runs=folder, quiet=True, optim={"lr": 0.01}, gamma=0.25, **SMALL)


@pytest.fixture(scope="module")
def model(run) -> realmix.Model:
    return realmix.load_model(run)


def test_importing_it_is_free():
    """Of processor time, the best of three; and nothing heavy is there then."""
    code = (
        "import sys, realmix; print([m for m in ('torch', 'zarr', 'numpy', 'PIL', 'pipeline.api') if m in sys.modules])"
    )
    bare, seconds = [], []
    for words, found in (("pass", bare), (code, seconds)) * 3:
        before = os.times()
        done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert done.stdout == "[]\n"
    assert min(seconds) - min(bare) < 0.1


def test_every_name_is_there_and_documented():
    assert dir(realmix) == sorted(realmix.__all__)
    for name in set(realmix.__all__) - {"__version__"}:
        value = getattr(realmix, name)
        assert inspect.getdoc(value), name
        assert value is getattr(importlib.import_module(value.__module__), name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = realmix.nothing
    assert "realmix" in realmix.list_methods()


def test_the_examples_do_what_they_say(tmp_path, monkeypatch):
    """Those of the docstrings, one after the other, and the one of the package with fewer steps."""
    monkeypatch.chdir(tmp_path)
    first = (realmix.build, realmix.split, realmix.train, realmix.resume)
    then = (realmix.predict, realmix.Loader, realmix.embed, realmix.compare, realmix.foreign)
    names = {function.__name__: function for function in (*first, *then, realmix.load_model)}
    shared = {**names, "folder": tmp_path / "made"}
    runner = doctest.DocTestRunner(verbose=False)
    for function in (*first, realmix.Model.predict, *then):
        examples = doctest.DocTestParser().get_examples(inspect.getdoc(function) or "")
        assert examples, function
        test = doctest.DocTest(examples, shared, function.__name__, None, None, None)
        runner.run(test, clear_globs=False)
        shared |= test.globs
        if "built" in shared:
            shared["test_images"] = shared["built"].store.test_images.read()
    assert runner.summarize().failed == 0
    (code,) = re.findall(r"\n\n((?:    .*\n|\n)+)", realmix.__doc__)[:1]
    exec(textwrap.dedent(code).replace("steps=500", "steps=3, batch=8"), {})


def test_a_run_is_that_of_the_command_line(split, run, tmp_path):
    config = json.loads((run.path / "config.json").read_text())
    assert (config["run"]["lr"], config["settings"]["gamma"], config["run"]["batch"]) == (0.01, 0.25, 4)
    assert run.error == run.result["error_last"]
    assert run.path.name == "tiny_20_realmix_s1"
    words = ["--store", split.path, "--steps", 4, "--runs", tmp_path, "--quiet", "--model", "wrn-10-1", "--batch", 4]
    words += ["--set", "lr=0.01", "--set", "realmix.gamma=0.25", "--device", "cpu", "--threads", 1]
    words += ["--set", "hardware.precision=fp32", "--set", "tensorboard=no"]
    subprocess.run([sys.executable, "-m", "trainer", *map(str, words)], check=True, capture_output=True)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (run.path, tmp_path / run.path.name)]
    assert weights[0] == weights[1]
    assert realmix.resume(run).result == realmix.resume(str(run.path)).result == run.result


def test_embeddings_are_made_compared_and_trained_on(tiny_copy, tmp_path):
    """As the commands would; what is trained classifies images, because the backbone's weights are known."""
    net = {"weights": "none", "size": 16, "device": "cpu", "copies": 2}
    seen = []
    made = realmix.embed(
        tiny_copy.with_name("tiny_20"),
        "timm:test_efficientnet",
        name="net",
        progress=lambda *told: seen.append(told),
        **net,
    )
    assert seen[-1] == ("copies", 300, 300) and made.train.shape == (150, 256)
    split = realmix.open_store(tiny_copy.with_name("tiny_20"))
    told = {"methods": ["probe", "mixmatch"], "seeds": (1, 2), "steps": 20, "runs": tmp_path, "quiet": True, "batch": 8}
    compared = realmix.compare(split, made, **told)
    assert [(row["method"], row["seeds"]) for row in compared.rows] == [("probe", [1, 2]), ("mixmatch", [1, 2])]
    assert compared.sentences[0].startswith("tiny_20: 2 seeds cannot tell")
    assert all(file.is_file() for file in compared.files)
    with pytest.raises(UsageError, match="unknown method"):
        realmix.compare(split, "net", methods=["mixmtch"])
    run = realmix.train(split, "mixmatch", embeddings=made, steps=20, batch=8, runs=tmp_path, quiet=True)
    (same,) = tmp_path.glob("*/*mixmatch*_s1")
    assert json.loads((same / "result.json").read_text())["error_last"] == run.error
    found = realmix.foreign(run)
    assert len(found.rows) == len(split.unlabeled) == len(found.table())
    with pytest.raises(UsageError, match="weights of timm:test_efficientnet"):
        realmix.load_model(run)  # a random backbone has no weights that a later process could find


def test_predictions_say_the_same_of_an_image_however_it_is_given(model, split, tmp_path):
    images = split.dataset.test_images.read(np.arange(5))
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    said = model.predict(images)
    assert len(said) == len(said.classes) == len(said.labels) == 5
    assert said.class_names == model.class_names == split.class_names
    assert said.classes == [said.class_names[i] for i in said.labels]
    np.testing.assert_allclose(said.probabilities.sum(1), 1)
    assert said.ood_scores.shape == (5,)
    assert ((said.ood_scores >= 0) & (said.ood_scores <= 1)).all()
    mixed = [files[0], Image.open(files[1]), images[2], str(files[3]), images[4:]]
    for given in (tmp_path, str(tmp_path), files, map(Image.fromarray, images), list(images), mixed):
        again = model.predict(given)
        np.testing.assert_array_equal(again.probabilities, said.probabilities)
        np.testing.assert_array_equal(again.ood_scores, said.ood_scores)
    assert model.predict(files[0]).paths == [str(files[0])]
    assert model.predict(images[0]).paths == [""]
    assert len(model.predict([])) == 0
    assert model.predict([]).ood_scores.shape == (0,)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "I;16", "YCbCr"])
@pytest.mark.parametrize("size", [(12, 12), (40, 30)])
def test_a_pillow_image_of_any_mode_is_read_as_its_file_is(model, tmp_path, mode, size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    image = Image.fromarray(rng.integers(0, 65536, size, dtype=np.uint16)) if mode == "I;16" else image.convert(mode)
    file = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    image.save(file)
    np.testing.assert_array_equal(model.predict(image).probabilities, model.predict(file).probabilities)


def test_an_image_of_another_size_is_fitted(model):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 48, 3), dtype=np.uint8)
    pixels[:, :, :4] = 0  # what the crop to a square takes away
    expected = model.predict(pixels).probabilities
    pixels[:, :, :4] = 255
    np.testing.assert_array_equal(model.predict(pixels).probabilities, expected)
    np.testing.assert_allclose(model.predict(Image.fromarray(pixels[1])).probabilities, expected[1:], atol=1e-6)


def test_mistakes_are_errors_of_the_package(model, split, tmp_path):
    for wrong in (np.zeros((2, 3, 12, 12), np.uint8), np.zeros((12, 12, 3)), np.zeros((12, 12), np.uint8)):
        with pytest.raises(UsageError, match="no image"):
            model.predict(wrong)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(IntegrityError, match=r"torn\.png"):
        model.predict(tmp_path / "torn.png")
    with pytest.raises(UsageError, match="there is no"):
        model.predict(tmp_path / "nothing.png")
    with pytest.raises(StoreError):
        realmix.load_model(tmp_path / "nothing")
    with pytest.raises(UsageError, match="did you mean gamma"):
        realmix.train(split, gama=0.5, runs=tmp_path)
    with pytest.raises(UsageError, match="unknown method"):
        realmix.train(split, "realmixx", runs=tmp_path)
    with pytest.raises(UsageError, match="unknown setting"):
        realmix.train(split, optim={"gamma": 1}, runs=tmp_path)
    with pytest.raises(StoreError, match="dataset store"):
        realmix.train(split.dataset.path, runs=tmp_path)
    with pytest.raises(UsageError, match="unknown source"):
        realmix.build("cifar", root=tmp_path)
    with pytest.raises(UsageError, match="needs --labels"):
        realmix.split(split)
    assert list(tmp_path.iterdir()) == [tmp_path / "torn.png"]


def test_a_process_that_ends_because_the_first_one_failed_is_an_error(split, monkeypatch):
    def end(*_: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr("trainer.api.train", end)
    with pytest.raises(realmix.RealMixError, match="first process"):
        realmix.train(split)


@pytest.mark.parametrize("package", ["zstandard", "sklearn"])
def test_without_the_extra_data_the_error_says_what_to_install(tmp_path, package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\nimport realmix\n"
        f"try: realmix.build('digits', root={str(tmp_path)!r})\n"
        "except realmix.RealMixError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert package in done.stdout, done.stderr
    assert "pip install 'realmix[data]'" in done.stdout


def test_lists_are_values_or_words(tiny_copy):
    made = realmix.split(tiny_copy, labels=(10, 15))
    assert [len(one.labeled) for one in made] == [10, 15]
    (one,) = realmix.split(made[0], labels=12, labeled_classes=["ant", "bee"], unlabeled_classes="cow,dog", name="some")
    assert (one.name, one.class_names, len(one.labeled)) == ("some", ["ant", "bee"], 12)


def test_batches_are_those_of_a_run_at_any_step(split):
    loader = realmix.Loader(split, "fixmatch", steps=5, **SMALL)
    batches = list(loader)
    assert len(loader) == len(batches) == 5
    later = realmix.Loader(split.path, "fixmatch", steps=5, start=3, **SMALL)
    assert len(later) == 2
    for ours, theirs in zip(later, batches[3:], strict=True):
        np.testing.assert_array_equal(ours.x, theirs.x)
        np.testing.assert_array_equal(ours.u[1], theirs.u[1])


def test_a_method_of_ones_own_trains(split, tmp_path, monkeypatch):
    source = inspect.getsource(importlib.import_module("trainer.methods.supervised"))
    (tmp_path / "mine.py").write_text(source.replace('NAME = "supervised"', 'NAME = "mine"'))
    monkeypatch.syspath_prepend(tmp_path)
    method = realmix.register_method(importlib.import_module("mine"))
    assert method.NAME == "mine"
    assert "mine" in realmix.list_methods()
    assert realmix.train(split, "mine", steps=2, runs=tmp_path, quiet=True, **SMALL).result["method"] == "mine"


def test_a_run_is_found_by_whatever_has_its_path(run):
    assert realmix.load_model(SimpleNamespace(path=run.path)).class_names == run.result["class_names"]
    assert isinstance(run.path, Path)


@pytest.mark.parametrize("images", [[1, 2], b"ab", None, 3.5], ids=repr)
def test_what_is_no_image_is_told(model, images):
    with pytest.raises(UsageError, match="is no image"):
        model.predict(images)


def test_tensors_are_arrays(model):
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (3, *model.image_size, 3), np.uint8)
    np.testing.assert_array_equal(
        model.predict(torch.from_numpy(pixels)).probabilities, model.predict(pixels).probabilities
    )


@pytest.mark.parametrize(
    "wrong",
    [{"labels": 2.5}, {"labels": [True]}, {"labels": 30, "split_seed": "a"}, {"labels": 30, "valid": 1.0}],
    ids=repr,
)
def test_numbers_that_are_none_are_told(tiny, wrong):
    with pytest.raises(UsageError, match=r"no whole number|neither a number"):
        realmix.split(tiny, **wrong)
    with pytest.raises(UsageError, match="no whole number"):
        realmix.build("digits", copies="3")


def test_numpy_numbers_are_numbers(tiny_copy):
    dataset = realmix.open_store(tiny_copy)
    [made] = realmix.split(dataset, labels=np.int64(25), split_seed=np.int64(7))
    assert len(made.labeled) == 25


def test_a_loader_takes_what_training_takes(split):
    settings = {key: value for key, value in SMALL.items() if key != "batch"}
    loader = realmix.Loader(split, "fixmatch", steps=3, optim={"lr": 0.5}, **settings, batch=4)
    assert len(list(loader)) == 3
    assert list(realmix.Loader(split, "fixmatch", steps=3, start=5, **SMALL)) == []
    with pytest.raises(UsageError, match="start=-1 is no step"):
        realmix.Loader(split, "fixmatch", steps=3, start=-1, **SMALL)


def test_a_home_that_was_asked_for_stays_when_a_run_is_resumed(split, tmp_path):
    for feed, recorded in (("mapped", "mapped"), ("auto", "resident"), ("stream", "stream")):
        run = realmix.train(split, steps=1, runs=tmp_path, name=feed, quiet=True, feed=feed, **SMALL)
        assert json.loads((run.path / "config.json").read_text())["run"]["feed"] == recorded


def test_a_method_does_not_take_over_what_every_run_has(split):
    from dataclasses import dataclass

    from trainer.contract import option

    @dataclass(frozen=True)
    class Settings:
        lr: float = option(0.1, "of its own")

    realmix.register_method(SimpleNamespace(NAME="greedy", SUMMARY="s", Settings=Settings, loss=lambda *_: None))
    with pytest.raises(UsageError, match="declares the setting 'lr', which every run has"):
        realmix.train(split, "greedy", steps=1, lr=0.01, **SMALL)
