"""`realmix-train eval | predict | export | report`: what can be done with a run once it has trained."""

from __future__ import annotations

import json
import sys
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from stores.errors import IntegrityError, require_place
from stores.system import text
from stores.system.terminal import is_lost
from trainer.commands.options import Debug, Device, Format, Json, RunPath, Threads, use_threads

Store = Annotated[str | None, typer.Option(help="Split store to evaluate on.", show_default="the run's own")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATHS…", help="Images, and folders of them.", show_default=False)]
Source = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of an export.", show_default=False)]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write.", show_default="standard output")]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="Largest picture that is decoded.", show_default="178956970")
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Of the backbone below a network on embeddings.", show_default="as embedded"),
]
Folder = Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.", show_default="RUN/export")]
Onnx = Annotated[bool, typer.Option("--onnx", help="Write model.onnx too, and check it (extra `onnx`).")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Runs, and folders of them.", show_default=False)]
Remote = Annotated[
    bool, typer.Option("--remote", help="Ask object storage for the images of runs that were trained from there.")
]
Page = Annotated[
    Path | None, typer.Option("-o", "--output", help="File to write.", show_default="report.html beside the runs")
]

LISTED = 8  # files that could not be read, after all rows


def eval(
    run: RunPath,
    store: Store = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a run's averaged and live weights: errors, calibration, AUROC of foreign images.

    Example: `realmix-train eval runs/mine --store stores/other`
    """
    use_threads(threads)
    from trainer.inference.reevaluate import reevaluate

    found = reevaluate(run, store, device or "auto")
    if as_json:
        text.say(json.dumps(found))
        return
    elsewhere = "" if found["same_store"] else ", not the store it was trained from"
    text.say(f"{found['run']}, step {found['step']:,}, on {found['store']}{elsewhere}")
    for name in ("averaged", "raw"):
        text.say(f"{name:9} {_line(found[name])}")
    if "scores" in found["averaged"]:
        rows = [
            (name, *("–" if one[key] is None else f"{one[key]:.3f}" for key in ("auroc", "fpr95")))
            for name, one in found["averaged"]["scores"].items()
        ]
        text.print_table(rows, ("score", "AUROC", "FPR@95"), "foreign images told from known ones")
    text.say()
    errors = found["averaged"]["per_class_error"]
    names = text.spelled(errors)
    width = min(40, max(map(len, names)))
    for name, error in zip(names, errors.values(), strict=True):
        text.say(f"{name:{width}}  {'no image' if error is None else f'{error:6.2f} %'}")


def _line(one: dict[str, Any] | None) -> str:
    if one is None:
        return "gone: the run has no checkpoint any more"
    parts = [f"error {one['test_error']:.2f} % of {one['test_images']:,}"]
    if one["valid_error"] is not None:
        parts.append(f"valid {one['valid_error']:.2f} %")
    parts.append(f"ECE {100 * one['calibration']['ece']:.2f} %")
    detection = one["detection"]
    if detection is not None and detection["auroc"] is not None:
        parts.append(f"AUROC of foreign images {detection['auroc']:.3f}, FPR@95 {detection['fpr95']:.3f}")
    if one["open_set"] is not None:
        parts.append(_open_set(one["open_set"]))
    return ", ".join(parts)


def _open_set(one: dict[str, Any]) -> str:
    by = "by its heads" if one["by"] == "heads" else "by 1 − confidence"
    said = f"AUROC of {one['foreign']:,} foreign test images {by} {one['auroc']:.3f}, FPR@95 {one['fpr95']:.3f}"
    if one["default"] is not None:
        said += f", by the default score {one['default']['auroc']:.3f}"
    if one["balanced"] is not None:
        said += f", balanced accuracy over K + 1 classes {100 * one['balanced']:.2f} %"
    return said


def predict(
    run: Source,
    paths: Paths,
    format: Format = "csv",
    output: Output = None,
    max_pixels: MaxPixels = None,
    weights: Weights = None,
    device: Device = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Classify images of any size: class, probabilities, and a score that is high for images of no class.

    A file that cannot be read has a row that says why; then the exit code is 4.

    Example: `realmix-train predict runs/mine photos/ -o said.csv`
    """
    use_threads(threads)
    from networks import hardware
    from stores.system import aside
    from trainer.evaluation import scorer
    from trainer.inference import predict
    from trainer.inference.embedding import from_images
    from trainer.runs.weights import find

    write = predict.writer(format)
    require_place(output)
    trained, found = from_images(find(run), weights), scorer.find(run)
    count, images, passed = predict.pictures(paths)
    if passed:
        text.say(f"note: {passed}", error=True)
    if found is None:
        text.say(f"note: no '{scorer.FILE}' beside the weights: 1 − confidence stands for a score", error=True)
    failed: list[str] = []
    said = predict.predict_all(trained, images, hardware.usable(device or "auto"), max_pixels, found)
    lines = write(predict.noting(said, failed), trained.class_names, found is not None)
    if output is None:
        for line in takewhile(lambda _: not is_lost(sys.stdout), lines):
            text.write(line)
    else:
        with aside.output(output) as out:
            out.writelines(line.encode(errors="surrogateescape") for line in lines)
        text.say(f"{output}: {count:,} images", error=True)
    if failed:
        what = f"{len(failed):,} of {count:,} images could not be read"
        more = [f"… and {len(failed) - LISTED:,} more"] * (len(failed) > LISTED)
        raise IntegrityError(what, "\n".join(failed[:LISTED] + more), "their rows say why; all others are classified")


def export(
    run: RunPath, output: Folder = None, onnx: Onnx = False, weights: Weights = None, debug: Debug = False
) -> None:
    """Write weights (safetensors), a model card and, with `--onnx`, an ONNX graph to a folder.

    Example: `realmix-train export runs/mine --onnx`
    """
    from trainer.inference.export import export as write
    from trainer.runs.run_dir import open_run

    for path in write(open_run(run), output or run / "export", onnx, weights):
        text.say(path)


def report(runs: Runs, output: Page = None, remote: Remote = False, debug: Debug = False) -> None:
    """Write one HTML page about a run, or about several: curves, errors, calibration, comparison over seeds.

    Example: `realmix-train report runs -o report.html`
    """
    from trainer.report import write
    from trainer.runs.run_dir import each_run

    text.say(write(each_run(runs), output, remote))
