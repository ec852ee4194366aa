"""eval, predict and export on runs of the real trainer; each mistake is one error that leaves nothing behind."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from rounding import FORWARD, assert_same, bound
from sklearn.metrics import roc_auc_score

from networks.build import build_model
from stores import open_store
from stores.errors import IntegrityError, RealMixError
from trainer.augment.flip_shift import scale
from trainer.contract import Head
from trainer.evaluation import scorer
from trainer.inference import onnx_graph
from trainer.inference.model import load_model
from trainer.runs import weights
from trainer.runs.run_dir import open_run
from trainer.runs.weights import Trained


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def first(trained, tmp_path) -> Path:
    """A private copy of a finished run."""
    shutil.copytree(trained / "runs" / "first", tmp_path / "runs" / "first")
    return tmp_path / "runs" / "first"


def logits_of(run: Path, images: np.ndarray, averaged: bool = True) -> np.ndarray:
    """What the weights say, from the files alone."""
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    model = build_model("wrn-10-1", 3)
    model.load_state_dict(content["model"] | (content["ema"] if averaged else {}))
    with torch.no_grad():
        return model.eval()(scale(torch.from_numpy(images))).double().numpy()


# ---- both kinds of weights ----


def test_the_live_weights_are_evaluated_too(trained):
    result = read(trained / "runs" / "first" / "result.json")
    split = open_store(trained / "stores" / "strange")
    images, labels = split.dataset.test_images.read(split.test), split.test_labels[split.test]
    said = logits_of(trained / "runs" / "first", images, averaged=False).argmax(1)
    assert result["raw_error_last"] == pytest.approx(100 * (said != labels).mean())
    assert [set(entry) for entry in result["history"]] == 2 * [
        {"step", "test_error", "valid_error", "raw_test_error", "raw_valid_error"}
    ]


def test_eval_says_what_training_said(command, trained):
    run = trained / "runs" / "first"
    code, out, _ = command("eval", run, "--json", "--threads", "1", "--device", "cpu")
    found, result = json.loads(out), read(run / "result.json")
    assert (code, found["step"], found["same_store"]) == (0, 6, True)
    for name, errors in (("averaged", "test_error"), ("raw", "raw_test_error")):
        assert found[name]["test_error"] == pytest.approx(result["history"][-1][errors])
    assert found["averaged"]["valid_error"] == pytest.approx(result["history"][-1]["valid_error"])
    for name in ("confusion", "per_class_error"):
        assert found["averaged"][name] == result[name]
    assert found["averaged"]["calibration"]["ece"] == pytest.approx(result["calibration"]["ece"], abs=1e-6)
    code, out, _ = command("eval", run, "--threads", "1")
    assert re.search(r"averaged +error \d+\.\d\d % of 18, valid \d+\.\d\d %, ECE \d+\.\d\d %, AUROC of foreign", out)
    assert re.search(r"ant +\d+\.\d\d %", out)


def test_the_auroc_is_of_foreign_against_known_unlabelled_images(command, trained, tmp_path):
    run, split = trained / "runs" / "first", open_store(trained / "stores" / "strange")
    rows = split.unlabeled
    foreign = split.train_labels[rows] < 0
    assert 0 < foreign.sum() < len(rows)
    logits = logits_of(run, split.dataset.train_images.read(rows))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    detection = read(run / "result.json")["detection"]
    assert detection["confidence"]["auroc"] == pytest.approx(roc_auc_score(foreign, 1 - probs.max(1)), abs=1e-6)
    assert (detection["known"], detection["foreign"]) == ((~foreign).sum(), foreign.sum())
    code, _, _ = command("foreign", run, "-o", tmp_path / "list.jsonl", "--format", "jsonl")
    listed = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    score = {one["row"]: one["score"] for one in listed}
    score = np.array([score[row] for row in rows])
    assert code == 0
    assert detection["auroc"] == pytest.approx(roc_auc_score(foreign, score), abs=1e-2)  # of rounded scores
    for name, group in (("known", ~foreign), ("foreign", foreign)):
        assert sum(detection[f"{name}_bins"]) == group.sum()


def test_eval_compares_the_scores_of_foreign_images(command, trained):
    run = trained / "runs" / "first"
    found = json.loads(command("eval", run, "--json")[1])["averaged"]
    assert found["scores"]["default"] == {key: found["detection"][key] for key in ("auroc", "fpr95")}
    assert found["scores"]["1 - confidence"] == found["detection"]["confidence"]
    assert all(0 <= value <= 1 for one in found["scores"].values() for value in one.values())
    out = command("eval", run)[1]
    for name in found["scores"]:
        assert re.search(rf"{name} +│? *\d\.\d\d\d", out), name


def test_a_run_is_evaluated_before_it_is_finished_and_after_its_checkpoint_is_gone(command, first):
    before = json.loads(command("eval", first, "--json", "--threads", "1")[1])
    (first / "checkpoint.pt").rename(first / "checkpoint.old")
    code, out, _ = command("eval", first, "--json", "--threads", "1")
    assert (code, json.loads(out)["raw"], json.loads(out)["averaged"]) == (0, None, before["averaged"])
    (first / "checkpoint.old").rename(first / "checkpoint.pt")
    for name in ("model.safetensors", "result.json"):
        (first / name).unlink()
    code, out, _ = command("eval", first, "--json", "--threads", "1")
    assert (code, json.loads(out)) == (0, before)


def test_a_second_head_is_accepted_and_left_out(tmp_path):
    torch.manual_seed(3)
    model = build_model("wrn-10-1", 2, heads=[Head("rotation", lambda k, d: [4])]).eval()
    weights.export(tmp_path, model, "wrn-10-1", ["a", "b"], (8, 8))
    again = weights.load(tmp_path)
    assert "rotation.weight" not in again.model.state_dict()
    images = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        assert_same(again.model(images), model(images), roundings=FORWARD)


# ---- predict ----


@pytest.fixture
def odd_images(tmp_path) -> Path:
    folder = tmp_path / "odd"
    (folder / "deep" / "er").mkdir(parents=True)
    rng = np.random.default_rng(5)
    noise = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    noise.convert("L").save(folder / "grey.png")
    noise.convert("RGBA").save(folder / "clear.png")
    noise.convert("P").save(folder / "palette.gif")
    noise.convert("CMYK").save(folder / "print.jpg")
    noise.convert("1").save(folder / "deep" / "er" / "bits.bmp")
    noise.resize((3, 200)).save(folder / "deep" / "tall, comma.webp")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_predict_reads_any_picture(command, trained, odd_images, tmp_path, kind):
    from stores.images import picture

    out_file = tmp_path / f"said.{kind}"
    run = trained / "runs" / "first"
    code, out, err = command("predict", run, odd_images, odd_images / "grey.png", "--format", kind, "-o", out_file)
    assert (code, out, err) == (0, "", f"note: passed over: 1 text file\n{out_file}: 7 images\n")
    text = out_file.read_text()
    if kind == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        probs = np.array([[float(row[f"p_{name}"]) for name in ("ant", "bee", "cow")] for row in rows])
    else:
        rows = [json.loads(line) for line in text.splitlines()]
        probs = np.array([list(row["probabilities"].values()) for row in rows])
        assert list(rows[0]["probabilities"]) == ["ant", "bee", "cow"]
    found = sorted(str(path) for path in odd_images.rglob("*.*") if path.suffix != ".txt")
    assert [row["path"] for row in rows] == [*found, str(odd_images / "grey.png")]
    images = np.stack([picture.load(row["path"], (12, 12)) for row in rows])
    logits = logits_of(run, images)
    limit = bound(torch.float32, FORWARD) * np.abs(logits).max() + 1e-6  # and the digits that are written
    np.testing.assert_allclose(probs, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=0, atol=limit)
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], probs.max(1), atol=1e-6)
    np.testing.assert_allclose([float(row["ood_score"]) for row in rows], foreign_scores(run, images), atol=1e-4)
    assert [row["class"] for row in rows] == [["ant", "bee", "cow"][i] for i in probs.argmax(1)]


def foreign_scores(run: Path, images: np.ndarray) -> np.ndarray:
    """What the run's scorer says of the features of its averaged weights."""
    model, found = weights.of_run(open_run(run)).model, scorer.find(run)
    assert found is not None
    with torch.no_grad():
        return found.score(model(scale(torch.from_numpy(images)), heads=["features"])["features"].numpy())


def test_the_scores_of_the_pool_are_those_that_foreign_lists(command, trained, tmp_path):
    """To a few hundredths: the images walked from score as they are there, others one step away."""
    run, split = trained / "runs" / "first", open_store(trained / "stores" / "strange")
    command("foreign", run, "-o", tmp_path / "list.jsonl", "--format", "jsonl")
    listed = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    rows = np.array([one["row"] for one in listed])
    found = foreign_scores(run, split.dataset.train_images.read(rows))
    assert np.corrcoef(found, [one["score"] for one in listed])[0, 1] > 0.9


@pytest.mark.parametrize("where", ["run", "export", "file"])
def test_images_are_scored_wherever_the_weights_are(command, trained, odd_images, tmp_path, where):
    run = trained / "runs" / "first"
    assert command("export", run, "-o", tmp_path / "model")[0] == 0
    place = {"run": run, "export": tmp_path / "model", "file": tmp_path / "model" / weights.FILE}[where]
    assert command("predict", place, odd_images)[1] == command("predict", run, odd_images)[1] != ""
    assert "ood_scores" in (tmp_path / "model" / "README.md").read_text()


def test_without_a_scorer_confidence_goes_by_its_own_name(command, first, odd_images, tmp_path):
    """As runs of early versions are."""
    (first / scorer.FILE).unlink()
    code, out, err = command("predict", first, odd_images)
    assert (code, out.splitlines()[0]) == (0, "path,class,confidence,one_minus_confidence,p_ant,p_bee,p_cow,error")
    assert "note: no 'foreign.safetensors' beside the weights" in err
    for row in csv.DictReader(out.splitlines()):
        assert float(row["one_minus_confidence"]) == pytest.approx(1 - float(row["confidence"]), abs=2e-6)
    assert load_model(first).predict(odd_images / "grey.png").ood_scores is None
    assert command("export", first, "-o", tmp_path / "model")[0] == 0
    assert not (tmp_path / "model" / scorer.FILE).exists()
    assert "ood_scores say" not in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("fault", ["cut", "other", "shape", "missing", "nan"])
def test_a_damaged_scorer_is_named(command, trained, first, odd_images, tmp_path, fault):
    file = first / scorer.FILE
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif fault == "other":
        file.write_bytes((trained / "runs" / "second" / scorer.FILE).read_bytes())
    else:
        (first / "config.json").unlink()  # what is left is an export
        tensors = weights.read(file).tensors
        if fault == "shape":
            tensors["axes"] = tensors["axes"][:, :-1].contiguous()
        elif fault == "missing":
            del tensors["reach"]
        else:
            tensors["centre"][0] = torch.nan
        weights.write(file, tensors, weights.read(file).metadata)
    code, out, err = command("predict", first, odd_images)
    assert (code, out, f"'{file}' is damaged" in err, "Traceback" in err) == (4, "", True, False)


def test_predict_without_a_file_prints(command, trained, odd_images):
    code, out, err = command("predict", trained / "runs" / "plain", odd_images)
    assert (code, len(out.splitlines()), err) == (0, 7, "note: passed over: 1 text file\n")
    assert out.startswith("path,class,confidence,ood_score,p_ant,p_bee,p_cow,error\n")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("to_file", [True, False])
def test_a_broken_picture_has_a_row_that_says_so_and_the_others_are_classified(
    command, trained, odd_images, tmp_path, kind, to_file
):
    run, said = trained / "runs" / "first", tmp_path / "said"
    whole = rows_of(command("predict", run, odd_images, "--format", kind)[1], kind)
    (odd_images / "grey.png").write_bytes((odd_images / "grey.png").read_bytes()[:200])
    (odd_images / "zero.png").write_bytes(b"")
    words = ["predict", run, odd_images, "--format", kind, *(["-o", said] if to_file else [])]
    code, out, err = command(*words)
    assert (code, "Traceback" in err) == (4, False)
    assert "2 of 7 images could not be read" in err
    rows = {row["path"]: row for row in rows_of(said.read_text() if to_file else out, kind)}
    broken = {str(odd_images / "grey.png"): "fix or remove it", str(odd_images / "zero.png"): "it is empty"}
    assert len(rows) == 7
    for path, why in broken.items():
        assert why in rows[path]["error"]
        assert not rows[path].get("class")
        assert path in err
    for row in whole:
        if row["path"] not in broken:
            assert rows[row["path"]]["class"] == row["class"]
            assert not rows[row["path"]].get("error")


def rows_of(text: str, kind: str) -> list[dict]:
    lines = text.splitlines()
    return list(csv.DictReader(lines)) if kind == "csv" else [json.loads(line) for line in lines]


def test_where_the_rows_go_is_looked_at_before_anything_is_read(command, trained, odd_images, tmp_path):
    code, out, err = command("predict", trained / "runs" / "first", odd_images, "-o", tmp_path / "no" / "said.csv")
    assert (code, out) == (2, "")
    assert f"no folder '{tmp_path / 'no'}' to write 'said.csv' to" in err
    assert f"mkdir -p {tmp_path / 'no'}" in err
    assert "a folder" in command("predict", trained / "runs" / "first", odd_images, "-o", tmp_path)[2]


def test_deep_pictures_are_read_with_the_range_of_the_store(command, tmp_path):
    """Twelve bits in sixteen, and the same picture with eight, are one picture to a network that learnt so."""
    torch.manual_seed(4)
    model = build_model("wrn-10-1", 3).eval()
    grey = np.arange(144, dtype=np.uint16).reshape(12, 12)
    Image.fromarray(grey * 16).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "eight.png")
    said = {}
    for name, range_ in (("told", (0, 4080)), ("untold", None)):
        (tmp_path / name).mkdir()
        weights.export(tmp_path / name, model, "wrn-10-1", ["ant", "bee", "cow"], (12, 12), range_)
        code, out, _ = command("predict", tmp_path / name, tmp_path / "deep.png", tmp_path / "eight.png")
        said[name] = [line.split(",", 1)[1] for line in out.splitlines()[1:]]
        assert code == 0
    assert said["told"][0] == said["told"][1] == said["untold"][1] != said["untold"][0]


def test_a_picture_may_be_too_large_to_predict(tmp_path):
    """In a process of its own: --max-pixels holds for the whole process."""
    weights.export(tmp_path, build_model("wrn-10-1", 2).eval(), "wrn-10-1", ["a", "b"], (8, 8))
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "scan.png")
    said = tmp_path / "said.csv"
    words = ["predict", tmp_path, tmp_path / "scan.png", "--max-pixels", "500", "-o", said]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "more than 500 pixels" in said.read_text()) == (4, True)
    assert "--max-pixels" in done.stderr


# ---- export ----


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    from trainer.inference.export import export

    folder = tmp_path_factory.mktemp("exported") / "model"
    export(open_run(trained / "runs" / "first"), folder, onnx=True)
    return folder


def test_the_exported_graph_says_what_the_network_says(trained, exported):
    images = open_store(trained / "stores" / "tiny").test_images.read()
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    for n in (1, 30):  # any number at once
        logits, probs = session.run(None, {"images": images[:n]})
        expected = logits_of(trained / "runs" / "first", images[:n])
        assert_same(logits, expected.astype(np.float32), roundings=FORWARD)
        limit = bound(torch.float32, FORWARD) * np.abs(expected).max()
        np.testing.assert_allclose(probs, torch.softmax(torch.from_numpy(expected), 1), rtol=0, atol=limit)
    graph = onnx.load(str(exported / "model.onnx"))
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.key: entry.value for entry in graph.metadata_props}["class_names"] == '["ant", "bee", "cow"]'


def test_the_exported_weights_are_the_runs_bytes(trained, exported):
    assert (exported / weights.FILE).read_bytes() == (trained / "runs" / "first" / weights.FILE).read_bytes()


def test_the_card_says_all_and_its_code_runs(trained, exported, monkeypatch, capsys):
    card, run = (exported / "README.md").read_text(), trained / "runs" / "first"
    result, config = read(run / "result.json"), read(run / "config.json")
    for text in (
        f"{result['error_last']:.2f} %",
        config["store"]["fingerprint"],
        "12×12",
        "0. ant\n1. bee\n2. cow",
        "`gamma=",
        "torch " + torch.__version__,
        "which images belong to no class",
    ):
        assert text in card
    blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == 2
    monkeypatch.chdir(exported)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ("ant", "bee", "cow")


def test_export_again_predicts_from_the_folder_and_without_onnx(command, trained, exported, odd_images, tmp_path):
    outcome = command("export", trained / "runs" / "first", "-o", exported.parent / "second")
    assert outcome[0] == 0
    folder = exported.parent / "second"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "foreign.safetensors", "README.md"}
    assert "onnx" not in (folder / "README.md").read_text()
    assert command("export", trained / "runs" / "first", "-o", folder)[0] == 0
    said = [command("predict", where, odd_images)[1] for where in (trained / "runs" / "first", folder)]
    assert said[0] == said[1] != ""


@pytest.mark.parametrize(("name", "size"), [("wrn-16-1", (8, 12)), ("wrn-13-1", (16, 16))])
def test_every_shape_of_network_becomes_a_graph(name, size):
    torch.manual_seed(1)
    model = build_model(name, 4)
    with torch.no_grad():
        model(torch.randn(16, 3, *size), update=0)  # running statistics that are not 0 and 1
    network = Trained(model.eval().requires_grad_(False), name, list("abcd"), size)
    data = onnx_graph.graph(network)
    assert onnx_graph.check(data, network) < 1e-4
    assert data == onnx_graph.graph(network)
    other = Trained(build_model(name, 4).eval().requires_grad_(False), name, list("abcd"), size)
    with pytest.raises(RealMixError, match="does not say what the network says"):
        onnx_graph.check(data, other)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["eval", "runs/nothing"], 3, "is no run"),
        (["eval", "runs/first", "--store", "stores/tiny"], 3, "its splits"),
        (["eval", "runs/first", "--store", "stores/tiny_20"], 3, "has other classes"),
        (["eval", "runs/first", "--device", "tpu"], 2, "auto, cpu, cuda or mps"),
        (["predict", "runs/first"], 2, "PATHS"),
        (["predict", "runs/first", "nowhere.png"], 2, "there is no 'nowhere.png'"),
        (["predict", "runs/first", "empty"], 2, "'empty' has no image"),
        (["predict", "runs/first", "pipe"], 2, "'pipe' is neither a file nor a folder"),
        (["predict", "runs/first", "runs"], 2, "'runs' has no image"),
        (["predict", "runs/first", "one.png", "--format", "cvs"], 2, "did you mean csv"),
        (["predict", "runs/nothing", "one.png"], 3, "is no run"),
        (["predict", "one.png", "one.png"], 4, "'one.png' is damaged"),
        (["export", "runs/nothing"], 3, "is no run"),
        (["export", "runs/first", "-o", "photos"], 2, "holds something else"),
        (["export", "runs/first", "-o", "one.png"], 2, "is no folder"),
        (["doctor", "--store", "stores/nothing"], 3, "is not a store"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_error_and_changes_nothing(command, trained, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "stores"):
        (tmp_path / name).symlink_to(trained / name)
    for name in ("empty", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "README.md").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    before = sorted(str(path) for path in [*tmp_path.rglob("*"), *trained.rglob("*")])
    got, out, err = command(*words)
    assert (got, out) == (code, ""), err
    assert said in err
    assert "Traceback" not in err
    assert sorted(str(path) for path in [*tmp_path.rglob("*"), *trained.rglob("*")]) == before


def test_a_run_that_is_not_finished_is_not_exported(command, first):
    (first / "result.json").unlink()
    code, _, err = command("export", first)
    assert (code, "is not finished" in err, f"--resume {first}" in err) == (3, True, True)
    assert not (first / "export").exists()


@pytest.mark.parametrize(
    ("module", "words", "hint"),
    [
        ("onnx", ["export", "runs/first", "--onnx"], "realmix[onnx]"),
        ("onnxruntime", ["export", "runs/first", "--onnx"], "realmix[onnx]"),
        ("PIL", ["predict", "runs/first", "one.png"], "realmix[predict]"),
    ],
)
def test_a_missing_package_says_what_to_install(command, trained, monkeypatch, module, words, hint):
    monkeypatch.chdir(trained)
    monkeypatch.delitem(sys.modules, "stores.images.picture", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = command(*words)
    assert (code, out, hint in err, "Traceback" in err) == (2, "", True, False)
    assert not (trained / "runs" / "first" / "export").exists()


def test_damaged_weights_are_named(first):
    data = (first / weights.FILE).read_bytes()
    (first / weights.FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        weights.of_run(open_run(first))


# ---- doctor ----


def test_doctor_sees_the_machine_and_reads_a_store(command, trained, monkeypatch):
    from trainer.commands import examine

    monkeypatch.chdir(trained)
    monkeypatch.setattr(examine, "READ_S", 0.1)
    code, out, _ = command("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["devices"][0]["kind"] == "cpu"
    assert found["extras"]["predict"]["missing"] == []
    assert found["read"]["store"].startswith("stores/")
    assert found["read"]["images_per_s"] > 0
    monkeypatch.setitem(examine.EXTRAS, "onnx", ("graphs", {"no_such_module": "some-package"}))
    code, out, _ = command("doctor")
    assert "without some-package: graphs" in out
    assert "pip install 'realmix[onnx]'" in out
    monkeypatch.chdir(trained / "runs")
    assert "no store in ./stores" in command("doctor")[1]


def test_doctor_knows_the_extras_of_the_project():
    import tomllib

    from trainer.commands.examine import EXTRAS, PACKAGES

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {
        extra: {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}
        for extra, requirements in project["optional-dependencies"].items()
        if extra not in ("dev", "demo", "demo-photos", "bench", "docs")
    }
    assert {extra: set(modules.values()) for extra, (_, modules) in EXTRAS.items()} == names
    assert set(PACKAGES) == {re.split(r"[<>=]", requirement)[0] for requirement in project["dependencies"]}
