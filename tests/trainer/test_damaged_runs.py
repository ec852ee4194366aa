"""Runs whose files are not what was written: noticed by whatever uses them, and never more than one clear error."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

from networks.build import build_model
from stores.errors import IntegrityError, RealMixError
from stores.format import manifest
from trainer import api
from trainer import report as reports
from trainer.inference import export as exports
from trainer.reproduce import table
from trainer.reproduce.plan import Planned
from trainer.reproduce.recipe import load as load_recipe
from trainer.runs import checkpoint, console, metrics, transfer, weights
from trainer.runs.run_dir import Run, open_run, write_json

FLIPS = 60
SEEDS = 20
CPU = torch.device("cpu")


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A private copy of a finished run."""
    return Path(shutil.copytree(trained / "runs" / "first", tmp_path / "runs" / "first"))


def outcome(use: Callable[[], Any]) -> Any:
    """What it gives, or the error that it is refused with."""
    try:
        return use()
    except RealMixError as error:
        return error


def tensors(content: Any) -> Any:
    """With tensors as bytes, to be compared."""
    if isinstance(content, torch.Tensor):
        return (content.dtype, content.shape, content.numpy().tobytes())
    if isinstance(content, dict):
        return {name: tensors(value) for name, value in content.items()}
    return [tensors(value) for value in content] if isinstance(content, list | tuple) else content


def network(trained: weights.Trained) -> Any:
    return trained.name, trained.class_names, trained.image_size, tensors(trained.model.state_dict())


# what the commands make of each file
USES: dict[str, Callable[[Path], Any]] = {
    "config.json": lambda run: open_run(run).config,
    "result.json": lambda run: open_run(run).result(),
    "model.safetensors": lambda run: network(weights.of_run(open_run(run))),
    "checkpoint.pt": lambda run: tensors(checkpoint.read(run, CPU)),
    "metrics.jsonl": lambda run: metrics.read(run),
}


@pytest.mark.parametrize("name", USES)
def test_a_flipped_bit_is_noticed_or_says_nothing(run: Path, name: str) -> None:
    file, rng = run / name, random.Random(1)
    good, whole, seen = file.read_bytes(), USES[name](run), Counter[str]()
    for _ in range(FLIPS):
        at, bit = rng.randrange(len(good)), rng.randrange(8)
        file.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
        found = outcome(lambda: USES[name](run))
        if isinstance(found, RealMixError):
            assert found.exit_code in (3, 4), found
            assert str(file) in str(found) or found.exit_code == 3, found
            seen["refused"] += 1
        elif name == "metrics.jsonl":
            (lines, damaged), (before, _) = found, whole
            assert {line for line, _ in lines} <= {line for line, _ in before}, "what is read is what was written"
            assert damaged or len(lines) == len(before)
            seen["left out" if damaged else "harmless"] += 1
        else:
            assert found == whole, (at, bit)
            seen["harmless"] += 1
    assert sum(seen.values()) == FLIPS
    assert seen["harmless"] < FLIPS / 2
    if name == "model.safetensors":
        assert seen == {"refused": FLIPS}


def test_weights_prove_themselves_wherever_they_are(run: Path, tmp_path: Path) -> None:
    file, rng = tmp_path / "moved.safetensors", random.Random(2)
    good = (run / weights.FILE).read_bytes()
    file.write_bytes(good)
    whole = network(weights.load(file))
    for at in [*range(0, 900, 31), *(rng.randrange(len(good)) for _ in range(30))]:
        file.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        for use in (lambda: network(weights.load(file)), lambda: transfer.read(str(file), "wrn-10-1")):
            found = outcome(use)
            if isinstance(found, RealMixError):
                assert str(file) in str(found)
            else:
                assert found == whole or isinstance(found, transfer.Backbone)
                assert b'"sha256"' not in file.read_bytes()[:2000], "only a file that has lost its checksum is taken"


@pytest.mark.parametrize("words", [["eval"], ["predict"], ["export"], ["report"], ["--resume"]])
def test_the_commands_name_the_file_and_what_to_do(command, run: Path, tmp_path: Path, words: list[str]) -> None:
    Image.new("RGB", (12, 12)).save(tmp_path / "one.png")
    name = "result.json" if words[0] in ("report", "--resume") else weights.FILE
    data = bytearray((run / name).read_bytes())
    data[-100] ^= 64
    (run / name).write_bytes(bytes(data))
    paths = [tmp_path / "one.png"] if words == ["predict"] else []
    code, out, err = command(*words, run, *paths)
    assert (code, out) == (4, ""), err
    assert f"'{run / name}' is damaged" in err
    assert f"--resume {run}" in err


def test_both_are_made_again_from_the_checkpoint(run: Path) -> None:
    good = (run / weights.FILE).read_bytes()
    for name in (weights.FILE, "result.json"):
        (run / name).unlink()
    _, result = api.resume(run, quiet=True)
    assert (run / weights.FILE).read_bytes() == good
    assert open_run(run).result() == result


@pytest.mark.parametrize("name", ["config.json", "result.json", weights.FILE, checkpoint.FILE])
def test_a_file_of_another_run_is_noticed(run: Path, trained: Path, name: str) -> None:
    shutil.copyfile(trained / "runs" / "second" / name, run / name)
    with pytest.raises(RealMixError) as caught:
        weights.of_run(open_run(run), averaged=name != checkpoint.FILE)
    assert caught.value.exit_code in (3, 4)
    assert str(run) in str(caught.value)


def test_a_run_from_before_there_were_checksums(run: Path) -> None:
    """As older versions wrote them; read as they are, and continued."""
    whole = [open_run(run).result(), network(weights.of_run(open_run(run))), metrics.read(run)[1]]
    for name in ("config.json", "result.json"):
        content = json.loads((run / name).read_text())
        content = {key: value for key, value in content.items() if key not in ("sha256", "files")}
        (run / name).write_text(json.dumps(content | ({"format": 1} if name == "config.json" else {})))
    with safe_open(run / weights.FILE, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "sha256"}
        safetensors.torch.save_file({key: file.get_tensor(key) for key in file.keys()}, run / weights.FILE, metadata)  # noqa: SIM118
    torch.save(torch.load(run / checkpoint.FILE, weights_only=True), run / checkpoint.FILE)
    lines = [json.loads(line) for line in (run / metrics.FILE).read_text().splitlines()]
    plain = [{key: value for key, value in line.items() if key != "crc32"} for line in lines]
    (run / metrics.FILE).write_text("".join(json.dumps(line) + "\n" for line in plain))
    assert [open_run(run).result(), network(weights.of_run(open_run(run))), metrics.read(run)[1]] == whole
    assert [record for _, record in metrics.read(run)[0]] == plain
    (run / "result.json").unlink()
    _, result = api.resume(run, quiet=True)
    assert result["history"] == whole[0]["history"]


# ---- metrics.jsonl ----


def test_a_damaged_line_does_not_stop_a_run_from_going_on(command, run: Path) -> None:
    (run / "result.json").unlink()
    lines = (run / metrics.FILE).read_bytes().splitlines(keepends=True)
    bad = [b"\xff" + lines[0][1:], lines[1].replace(b"e", b"E", 1), b'{"kind": "train"}\n', b"[" * 5000 + b"\n"]
    (run / metrics.FILE).write_bytes(b"".join([*bad, *lines[2:], b'{"kind": "tr']))
    code, _, err = command("--resume", run)
    assert code == 0, err
    assert "left out 4 damaged line(s) of metrics.jsonl" in err
    assert (run / metrics.FILE).read_bytes() == b"".join(lines[2:])


NUMBERS = st.integers(-(2**40), 2**40) | st.floats(-1e30, 1e30)
RECORDS = st.dictionaries(st.text(max_size=9).filter(lambda name: name not in ("kind", "step", "crc32")), NUMBERS)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(record=RECORDS, step=st.integers(0, 10**9), at=st.integers(0), bit=st.integers(0, 7))
def test_a_line_is_read_as_it_was_written_or_not_at_all(record: dict[str, Any], step: int, at: int, bit: int) -> None:
    record = {**record, "kind": "eval", "step": step, "test_error": 5.0}
    line = metrics.line(record)
    assert metrics.parse(line[:-1]) == record
    assert json.loads(line)["crc32"] == f"{zlib.crc32(json.dumps(record).encode()):08x}"
    at %= len(line) - 1
    assert metrics.parse(line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 : -1]) in (None, record)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=80) | st.sampled_from(hostile.VALUES).map(lambda value: repr(value).encode(errors="replace")))
def test_any_bytes_are_a_line_or_none(data: bytes) -> None:
    found = metrics.parse(data)
    assert found is None or found["kind"] in ("train", "eval")


# ---- runs made by an enemy ----


def put(path: Path, content: Any) -> None:
    """With a checksum that fits, if it can have one."""
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        content = {**content, "sha256": manifest.fingerprint(content)}
    path.write_text(json.dumps(content))


def use(run: Path, out: Path) -> Counter[str]:
    """All that the commands do to a run, but for training: how often each ended well, or with which error."""

    def export() -> None:
        exports.export(open_run(run), out / "export", onnx=False)

    def say() -> None:
        result = open_run(run).result()
        print(console.last_line(run, result) if result else "")

    def tabulate() -> None:
        recipe = load_recipe("table1")
        planned = {(row.name, column): [Planned(run, "", "", 1, 6, ())] for row in recipe.rows for column in row.stores}
        table.markdown(recipe, recipe, table.cells(recipe, planned), open_run(run).config)

    uses = [
        say,
        export,
        tabulate,
        lambda: reports.write([run], out / "one.html"),
        lambda: reports.write([run, run.with_name("second")], out / "two.html"),
        lambda: weights.find(run),
        lambda: weights.of_run(open_run(run), averaged=False),
        lambda: transfer.read(str(run), "wrn-10-1"),
        lambda: api.resume(run, quiet=True),
    ]
    seen = Counter[str]()
    for attempt in uses:
        found = outcome(attempt)
        if isinstance(found, RealMixError):
            assert found.exit_code in (2, 3, 4), found
            str(found).encode()
        seen[type(found).__name__ if isinstance(found, RealMixError) else "went on"] += 1
    return seen


@pytest.mark.parametrize("name", ["config.json", "result.json", metrics.FILE, "metadata"])
def test_a_mutated_run_is_used_or_refused(run: Path, trained: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(trained / "runs" / "second", run.with_name("second"))
    file = run / (weights.FILE if name == "metadata" else name)
    good, seen = file.read_bytes(), Counter[str]()
    for seed in range(SEEDS):
        rng = random.Random(seed)
        if name == metrics.FILE:
            lines = [hostile.mutated(json.loads(line), rng, 1) for line in good.splitlines()]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        elif name == "metadata":
            (run / "config.json").rename(run / "kept") if (run / "config.json").exists() else None
            with safe_open(trained / "runs" / "first" / weights.FILE, "pt") as opened:
                made = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                said = hostile.mutated({**opened.metadata(), "sha256": None}, rng, 2)
            pairs = [(str(key), str(value)) for key, value in said.items() if value is not None]
            metadata = {key.encode(errors="replace").decode(): v.encode(errors="replace").decode() for key, v in pairs}
            safetensors.torch.save_file(made, file, metadata)
        else:
            content = {key: value for key, value in json.loads(good).items() if key != "sha256"}
            if name == "config.json":
                content["command"] = ["realmix-train"]  # not pytest's own, of any length
            put(file, hostile.mutated(content, rng, rng.choice([1, 1, 2])))
        seen += use(run, tmp_path)
        shutil.rmtree(tmp_path / "export", ignore_errors=True)
    assert sum(seen.values()) == SEEDS * 9
    refused = SEEDS * 9 - seen["went on"]
    assert refused == 0 if name == metrics.FILE else refused > SEEDS, seen


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model": "wrn-10-4000"}, 3),
        ({"model": "wrn-9994-1"}, 3),
        ({"model": "wrn-994-1"}, 4),
        ({"model": "wrn-10-999"}, 4),
        ({"model": "x"}, 3),
        ({"image_size": "[20000, 20000]"}, 3),
        ({"image_size": "[0, 3]"}, 3),
        ({"image_size": "[" * 5000}, 3),
        ({"class_names": json.dumps(["x"] * 10**6)}, 4),
        ({"class_names": "[]"}, 3),
        ({"class_names": "nan"}, 3),
    ],
    ids=lambda value: str(value)[:40],
)
def test_weights_that_ask_for_too_much(tmp_path: Path, change: dict[str, str], code: int) -> None:
    model = build_model("wrn-10-1", 2)
    weights.export(tmp_path, model, "wrn-10-1", ["a", "b"], (8, 8))
    with safe_open(tmp_path / weights.FILE, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "sha256"} | change
    safetensors.torch.save_file(model.state_dict(), tmp_path / weights.FILE, metadata)
    with pytest.raises(RealMixError) as caught:
        weights.load(tmp_path)
    assert caught.value.exit_code == code


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    model = build_model("wrn-10-1", 2)
    with torch.no_grad():
        model.bn.running_var[3] = value
    weights.export(tmp_path, model, "wrn-10-1", ["a", "b"], (8, 8))
    for use in (lambda: weights.load(tmp_path), lambda: transfer.read(str(tmp_path), "wrn-10-1")):
        with pytest.raises(IntegrityError, match=r"'bn\.running_var' holds a number that is not finite"):
            use()


def test_answers_that_are_no_numbers_are_no_class(command, tmp_path: Path) -> None:
    """Finite weights, too large for what follows from them."""
    model = build_model("wrn-10-1", 2)
    with torch.no_grad():
        model.head.weight.fill_(3e38)
    weights.export(tmp_path, model, "wrn-10-1", ["a", "b"], (8, 8))
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "one.png")
    code, out, err = command("predict", tmp_path, tmp_path / "one.png", "--device", "cpu")
    assert (code, "no numbers" in err, "nan" in out) == (4, True, False), (out, err)


@pytest.mark.parametrize("header", [b"", b"\xff" * 8, (2**62).to_bytes(8, "little"), (10**8).to_bytes(8, "little")])
def test_headers_of_weights_that_lie(tmp_path: Path, header: bytes) -> None:
    (tmp_path / weights.FILE).write_bytes(header + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
    with pytest.raises(IntegrityError, match="no safetensors file"):
        weights.load(tmp_path)


def test_a_checkpoint_that_unfolds_is_refused(run: Path) -> None:
    """Parts that are compressed, as torch would never write them: a few bytes that become gigabytes."""
    import zipfile

    with zipfile.ZipFile(run / checkpoint.FILE) as old:
        parts = [(part, old.read(part)) for part in old.namelist()]
    with zipfile.ZipFile(run / checkpoint.FILE, "w", zipfile.ZIP_DEFLATED) as new:
        for part, data in parts:
            new.writestr(part, data)
    with pytest.raises(IntegrityError, match="larger than the file"):
        checkpoint.read(run, CPU)


def test_a_pipe_makes_nobody_wait(run: Path) -> None:
    import os

    for name in USES:
        kept = (run / name).read_bytes()
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(IntegrityError, match="not a regular file"):
            USES[name](run)
        (run / name).unlink()
        (run / name).write_bytes(kept)


def test_a_seal_is_what_the_docstring_says(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    seal = content.pop("sha256")
    assert seal == manifest.fingerprint(content)
    write_json(run / "config.json", content)
    assert json.loads((run / "config.json").read_text()) == content | {"sha256": seal}
    assert isinstance(open_run(run), Run)
