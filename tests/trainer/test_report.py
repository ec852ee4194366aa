"""The report: a well-formed page that needs nothing but itself, and says what the runs' files say."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from stores import open_store
from stores.errors import IntegrityError, StoreError, UsageError
from trainer.evaluation import outcomes
from trainer.report import charts, comparison, markup, records, samples, significance, verdict, write
from trainer.runs import png
from trainer.runs.run_dir import open_run, write_json

NEVER_CLOSED = ("meta", "img")


class Page(HTMLParser):
    """Elements and texts; complains about what is not closed, and about anything from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object"), tag
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"an attribute of <{tag}> twice"
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "action", "data", "xlink:href"):
                assert value
                assert value.startswith(("data:image/png;base64,", "#")), value[:60]
        self.tags.append((tag, dict(attributes)))
        if tag not in NEVER_CLOSED:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in NEVER_CLOSED:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def runs(trained, tmp_path) -> Path:
    """A private copy of the folder of runs."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def test_one_run_on_one_page(command, runs):
    code, out, err = command("report", runs / "first")
    assert (code, out, err) == (0, f"{runs / 'first' / 'report.html'}\n", "")
    source = (runs / "first" / "report.html").read_text()
    page, result = Page(source), read(runs / "first" / "result.json")
    config = read(runs / "first" / "config.json")
    for text in (
        f"{result['error_last']:.2f} %",
        f"{result['error_median20']:.2f} %",
        f"{result['error_best_by_valid']:.2f} %",
        f"{result['raw_error_last']:.2f} %",
        f"{100 * result['calibration']['ece']:.2f} %",
        f"{result['detection']['auroc']:.3f}",
        "realmix on strange",
        config["store"]["fingerprint"],
        config["store"]["dataset_fingerprint"],
        "recipe cutout",
        "mismatch, split seed 1",
        "12 labelled",
        "lambda_u",
        "Copies in the store",
        "Foreign images",
        "Calibration",
    ):
        assert text in page.text, text
    assert not re.search(r"https?:|url\(|@import", source)
    policies = [said["content"] for tag, said in page.tags if said.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "prefers-color-scheme: dark" in source
    assert ("html", {"lang": "en"}) in page.tags
    assert all(said.get("aria-label") or said.get("aria-hidden") for tag, said in page.tags if tag == "svg")
    write([runs / "first"], None)
    assert (runs / "first" / "report.html").read_text() == source, "the same bytes for the same run"


def test_the_copies_on_the_page_are_the_stores(trained, runs):
    page = Page(write([runs / "first"], None).read_text())
    images = [said for tag, said in page.tags if tag == "img"][-8 * 6 :]  # after those of wrong and foreign images
    split = open_store(trained / "stores" / "strange")
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(said["src"].partition(",")[2])))) for said in images]
    # eight rows of an image and its five copies
    base, copies = split.dataset.train_images.read(), split.dataset.copies.read()
    kinds = []
    for i in range(0, len(pixels), 6):
        row = next(r for r in range(len(base)) if np.array_equal(base[r], pixels[i]))
        np.testing.assert_array_equal(np.stack(pixels[i + 1 : i + 6]), copies[row])
        assert images[i]["alt"] == split.dataset.class_names[split.dataset.train_labels[row]]
        kinds.append("labelled" if row in split.labeled else "known" if split.train_labels[row] >= 0 else "foreign")
    assert kinds[:4] == ["labelled"] * 4
    assert {"known", "foreign"} == set(kinds[4:])


def test_seeds_are_averaged_and_methods_compared(command, runs):
    names = ("first", "second", "plain")
    code, out, _ = command("report", *(runs / name for name in names))
    assert (code, out) == (0, f"{runs / 'report.html'}\n")
    page = Page((runs / "report.html").read_text())
    results = [read(runs / name / "result.json") for name in names]
    for key, factor, digits in (("error_last", 1, 2), ("error_median20", 1, 2)):
        pair = [factor * result[key] for result in results[:2]]
        assert f"{statistics.mean(pair):.{digits}f} ± {statistics.stdev(pair):.{digits}f}" in page.text
    aurocs = [result["detection"]["auroc"] for result in results[:2]]
    assert f"{statistics.mean(aurocs):.3f} ± {statistics.stdev(aurocs):.3f}" in page.text
    ids = [said["id"] for _, said in page.tags if "id" in said]
    assert len(ids) == len(set(ids)) == 3
    assert [said["href"] for tag, said in page.tags if tag == "a"] == [f"#{one}" for one in ids]
    groups = records.group([records.read(runs / name) for name in names])
    assert [[record.name for record in one.records] for one in groups] == [["first", "second"], ["plain"]]


def changed(run: Path, to: Path, **settings: object) -> records.Record:
    """A copy of a run with other settings."""
    shutil.copytree(run, to)
    config = read(run / "config.json")
    for name, value in settings.items():
        config["run" if name in config["run"] else "settings"][name] = value
    write_json(to / "config.json", config)
    result = read(run / "result.json")
    write_json(to / "result.json", result | {name: settings[name] for name in result.keys() & settings.keys()})
    return records.read(to)


def test_groups_differ_in_more_than_seeds_and_machines(runs, tmp_path):
    first = records.read(runs / "first")
    seed = changed(runs / "first", tmp_path / "a", seed=9, threads=7, device="cuda", precision="bf16", eval_every=50)
    gamma = changed(runs / "first", tmp_path / "b", gamma=0.25)
    lr = changed(runs / "first", tmp_path / "c", lr=0.01)
    groups = records.group([first, gamma, seed, lr])
    assert [[record.name for record in one.records] for one in groups] == [["first", "a"], ["b"], ["c"]]
    assert groups[0].seeds == [1, 9]
    assert records.differing(groups) == ["lr", "gamma"]
    own = read(runs / "first" / "config.json")["settings"]["gamma"]
    assert comparison.labels(groups) == [
        f"realmix lr=0.002 gamma={own:g}",
        "realmix lr=0.002 gamma=0.25",
        f"realmix lr=0.01 gamma={own:g}",
    ]
    plain = records.read(runs / "plain")
    long = changed(runs / "plain", tmp_path / "d", steps=12)
    after = changed(runs / "plain", tmp_path / "e", init="/runs/source/model.safetensors")
    groups = records.group([first, plain, long, after])
    assert comparison.labels(groups) == [
        "realmix steps=6",
        "supervised steps=6",
        "supervised steps=12",
        "supervised steps=6 after source",
    ]
    groups = records.group([first, seed, gamma])
    mean, spread, count = groups[0].mean("error_last")
    assert (mean, spread, count) == (first.score("error_last"), 0, 2)
    assert groups[1].mean("error_last")[1] is None


def test_texts_from_runs_are_escaped(runs):
    nasty = ["<script>alert(1)</script>", 'a"b&c', "ünï\u202ecode"]
    path = runs / "first"
    for file in ("config.json", "result.json"):
        content = read(path / file)
        place = content["store"] if file == "config.json" else content
        if file == "result.json":
            place["per_class_error"] = dict(zip(nasty, place["per_class_error"].values(), strict=True))
        place["class_names"] = nasty
        content |= {"command": ["realmix-train", "</code><img src=http://x.y>"]} if file == "config.json" else {}
        write_json(path / file, content)
    page = Page(write([path], None).read_text())
    for text in (*nasty[:2], r"ünï\u202ecode", "<img src=http://x.y>"):
        assert text in page.text


def test_many_classes_are_told_by_their_worst(runs):
    path, rng = runs / "plain", np.random.default_rng(1)
    names, confusion = [f"class {i}" for i in range(40)], rng.integers(0, 3, (40, 40)) + 50 * np.eye(40, dtype=int)
    confusion[7, 9] = 99
    result = read(path / "result.json") | {"class_names": names, "confusion": confusion.tolist()}
    result["per_class_error"] = {n: 100 * (1 - row[i] / row.sum()) for i, (n, row) in enumerate(zip(names, confusion))}  # noqa: B905
    write_json(path / "result.json", result)
    config = read(path / "config.json")
    write_json(path / "config.json", config | {"store": config["store"] | {"class_names": names}})
    page = Page(write([path], None).read_text())
    assert "20 worst of 40 classes" in page.text
    at = page.texts.index("Most frequent confusions")
    assert page.texts[at + 5 : at + 8] == ["class 7", "class 9", "99"]


def test_a_run_without_a_baseline_finds_it_beside_itself(runs):
    page = Page(write([runs / "first"], None).read_text())
    found = records.read(runs / "first"), records.read(runs / "plain")
    difference = significance.difference(*(records.Group([one]) for one in reversed(found)))
    assert difference.images == len(found[0].outcomes.test_rows)
    if found[0].score("error_last") < verdict.chance_error(found[0]):
        assert "supervised (plain), which sees the labels alone" in page.text
    shutil.rmtree(runs / "plain")
    assert "supervised (plain)" not in Page(write([runs / "first"], None).read_text()).text


def test_pseudo_labels_and_images_are_those_of_the_outcomes(trained, runs):
    record, split = records.read(runs / "first"), open_store(trained / "stores" / "strange")
    said = record.outcomes
    np.testing.assert_array_equal(said.test_rows, split.test[split.test_labels[split.test] >= 0])
    np.testing.assert_array_equal(said.pool_rows, np.setdiff1d(split.unlabeled, split.labeled))
    np.testing.assert_array_equal(said.pool_labels, np.maximum(split.train_labels[said.pool_rows], -1))
    wrong = said.test_guesses != said.test_labels
    assert record.score("error_last") == pytest.approx(100 * wrong.mean())
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (said.test_labels, said.test_guesses), 1)
    assert confusion.tolist() == record.result["confusion"]
    page = Page(write([runs / "first"], None).read_text())
    right, sure = said.pool_guesses == said.pool_labels, said.pool_confidences >= 0.5
    at = page.texts.index("Guesses by their confidence") + 5
    assert page.texts[at : at + 4] == ["all", f"{len(right)}", "100.0 %", f"{100 * right.mean():.1f} %"]
    correct = f"{100 * right[sure].mean():.1f} %" if sure.any() else "–"
    assert page.texts[at + 4 : at + 8] == ["0.5 and more", f"{sure.sum()}", f"{100 * sure.mean():.1f} %", correct]
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(one["src"].partition(",")[2]))))
        for tag, one in page.tags
        if tag == "img"
    ]
    first = np.argsort(np.where(wrong, -said.test_confidences, 1), kind="stable")[0]
    np.testing.assert_array_equal(pictures[0], split.dataset.test_images.read(said.test_rows[[first]])[0])
    foreign = said.pool_rows[np.argsort(-said.pool_scores, kind="stable")[0]]
    shown = min(12, wrong.sum()) + 12
    np.testing.assert_array_equal(pictures[shown], split.dataset.train_images.read(np.array([foreign]))[0])


def test_a_run_of_before_the_outcomes_has_a_report(runs):
    for name in ("first", "plain"):
        path = runs / name
        (path / outcomes.FILE).unlink()
        result = read(path / "result.json")
        del result["files"][outcomes.FILE]
        write_json(path / "result.json", result)
    page = Page(write([runs / "first", runs / "plain"], None).read_text())
    assert "may be chance" in page.text
    assert "Pseudo-labels" not in page.text


@pytest.mark.parametrize(
    "change",
    [
        {"test_guesses": np.int32([3])},
        {"test_confidences": np.float32([np.nan])},
        {"pool_rows": np.int32([-1])},
        {"pool_labels": np.float32([0])},
        {"pool_scores": None},
        {"more": np.int32([1])},
    ],
)
def test_outcomes_that_cannot_be_are_refused(runs, change):
    path = runs / "first"
    content = safetensors.numpy.load_file(path / outcomes.FILE)
    for name, first in change.items():
        if first is None:
            del content[name]
        else:
            content[name] = np.concatenate([first, content.get(name, first)[1:].astype(first.dtype)])
    with pytest.raises(IntegrityError, match="not the file that the run left"):
        write([_with(path, content, seal=False)], None)
    with pytest.raises(IntegrityError, match=f"wrong or missing: {next(iter(change))}"):
        write([_with(path, content, seal=True)], None)


def _with(path: Path, content: dict, seal: bool) -> Path:
    """The run with these outcomes, which its result vouches for if it is sealed."""
    safetensors.numpy.save_file(content, path / outcomes.FILE)
    if seal:
        run = open_run(path)
        content = read(path / "result.json")
        run.write_result({k: v for k, v in content.items() if k not in ("files", "sha256")})
    return path


def test_an_unfinished_run_and_a_store_that_is_gone(runs):
    path = runs / "first"
    (path / "result.json").unlink()
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 4]
    (path / "metrics.jsonl").write_text("".join(kept) + lines[-1][:30])  # killed while it wrote
    config = read(path / "config.json")
    config["store"]["path"] = "/nowhere/strange"
    write_json(path / "config.json", config)
    page = Page(write([path], None).read_text())
    assert "Not finished: step 4 of 6." in page.text
    assert "not at /nowhere/strange any more" in page.text
    assert "Calibration" not in page.text
    assert "test error at step 3" in page.text
    both = Page(write([path, runs / "plain"], None).read_text())
    assert "at 4 of 6" in both.text
    (path / "metrics.jsonl").unlink()  # killed before its first line
    assert "Not finished: step 0 of 6." in Page(write([path], None).read_text()).text


def test_mistakes(runs, tmp_path):
    with pytest.raises(StoreError, match="is no run"):
        write([runs / "first", runs / "third"], None)
    with pytest.raises(UsageError, match="named twice"):
        write([runs / "first", runs / "." / "first"], None)
    with pytest.raises(UsageError, match="no folder"):
        write([runs / "first"], tmp_path / "nowhere" / "page.html")
    assert not list(runs.rglob("*.html"))


def test_damaged_lines_are_counted_and_left_out(runs):
    path = runs / "first" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([b"{" + lines[0], b"\xff\xfe\n", b"[" * 9999 + b"\n", *lines[1:]]))
    record = records.read(runs / "first")
    assert (record.unreadable, len(record.train) + len(record.evals)) == (3, len(lines) - 1)
    assert "3 line(s) of metrics.jsonl" in Page(write([runs / "first"], None).read_text()).text


def test_the_report_needs_no_torch(runs):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from trainer.report import write\n"
        f"write([Path({str(runs / 'first')!r})], None); print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "False\n"


# ---- parts ----


@settings(deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_png_is_read_back_by_pillow(pixels):
    image = Image.open(io.BytesIO(png.encode(pixels)))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=600))
@example([5e-324])
@example([2.3e-308, -8.5e-141])
@settings(max_examples=50, deadline=None)
def test_lines_stay_within_their_chart(values):
    points = [(float(i), value) for i, value in enumerate(values)]
    for log in (False, True):
        page = Page(charts.lines("t", [charts.Series("a", points)], "{:g}".format, log=log))
        drawn = [said["points"] for tag, said in page.tags if tag == "polyline"]
        assert len(drawn) == 1
        for pair in drawn[0].split():
            x, y = map(float, pair.split(","))
            assert charts.LEFT - 0.1 <= x <= charts.WIDTH - charts.RIGHT + 0.1
            assert charts.TOP - 0.1 <= y <= charts.HEIGHT - charts.BOTTOM + 0.1


def test_a_level_is_drawn_where_it_lies_within_the_chart_and_named_in_any_case():
    series = [charts.Series("a", [(1.0, 10.0), (2.0, 20.0)])]
    for level, drawn in ((15.0, True), (20.0, True), (90.0, False)):
        page = Page(charts.lines("t", series, "{:g}".format, level=("Chance", level)))
        rules = [said for tag, said in page.tags if tag == "line" and said.get("class") == "ideal"]
        assert len(rules) == drawn
        assert f"Chance: {level:g}, {'dashed' if drawn else 'beyond the chart'}." in page.text
        assert "step" in page.texts, "the title of the axis"


def test_lines_that_never_change_are_dropped():
    points = [[(1.0, 2.0), (2.0, 2.0)], [(1.0, 2.0), (2.0, 3.0)], [(1.0, 2.0)], []]
    series = [charts.Series(str(i), one) for i, one in enumerate(points)]
    assert [one.name for one in charts.varying(series)] == ["1", "2", "3"]


@settings(deadline=None)
@given(st.integers(3, 5000))
def test_thinning_keeps_ends_and_mean(n):
    points = [(float(i), float(i % 7)) for i in range(n)]
    thin = charts.thin(points)
    assert len(thin) == min(n, charts.POINTS)
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert [x for x, _ in thin] == sorted(x for x, _ in thin)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 87, [0, 25, 50, 75, 100]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
        (-3, 5, [-4, -2, 0, 2, 4, 6]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, ticks):
    assert charts.round_ticks(low, high) == pytest.approx(ticks)


def test_logarithmic_ticks():
    assert charts.log_ticks(2.3, 87) == pytest.approx([2, 5, 10, 20, 50, 100])


def test_markup_escapes_texts_and_attributes():
    found = markup.el("p", "a<b", title='"x"', class_="c", hidden=False)
    assert found == '<p title="&quot;x&quot;" class="c">a&lt;b</p>'
    assert markup.el("img", src="#") == '<img src="#"/>'


def test_reading_a_run_contacts_nobody_unless_asked(command, runs, tmp_path, monkeypatch):
    """A run's record may come from anyone, and name any place."""
    from stores.errors import StorageError
    from stores.storage import bucket

    asked = []

    def connect(name: str) -> None:
        asked.append(name)
        raise StorageError("nobody is there")

    monkeypatch.setattr(bucket, "connect", connect)
    run = tmp_path / "run"
    shutil.copytree(runs / "first", run)
    config = read(run / "config.json")
    config["store"]["path"] = config["run"]["store"] = "s3://somebody/x"
    write_json(run / "config.json", config)
    assert command("report", run)[0] == 0
    assert "The store is at s3://somebody/x, which was not contacted" in Page((run / "report.html").read_text()).text
    code, _, err = command("eval", run)
    assert (code, f"realmix-train eval {run} --store s3://somebody/x" in err) == (2, True)
    assert asked == []
    assert command("report", run, "--remote")[0] == 0
    assert set(asked) == {"somebody"}
    assert command("eval", run, "--store", "s3://somebody/x")[0] == 3


def test_names_that_no_page_can_hold(runs, tmp_path):
    """JSON may spell a terminal's commands, and half of a surrogate pair, which is no text."""
    run = tmp_path / "run"
    shutil.copytree(runs / "first", run)
    text = (run / "config.json").read_text()
    write_json(run / "config.json", json.loads(text.replace('"strange"', '"\\u001b[2J\\u202e"')))
    assert r"\x1b[2J\u202e" in write([run], None).read_text(encoding="utf-8")
    write_json(run / "config.json", json.loads(text.replace('"strange"', '"\\ud800"')))
    with pytest.raises(IntegrityError, match=r"config\.json"):
        write([run], None)


@pytest.mark.parametrize("size", [(96, 50), (97, 97), (160, 300), (1, 1000)])
def test_thumbnails_of_photographs_are_means_of_squares(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    small, k = samples.thumbnail(image), -(-max(size) // samples.SIDE)
    assert max(small.shape[:2]) <= samples.SIDE
    for row in range(small.shape[0]):
        for column in range(small.shape[1]):
            square = image[row * k : (row + 1) * k, column * k : (column + 1) * k].reshape(-1, 3)
            np.testing.assert_allclose(small[row, column], square.mean(0), atol=0.5)
