"""`realmix-train eval | predict | export | report`: what can be done with a run once it has trained."""

from __future__ import annotations

import json
import sys
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from stores.terminal import is_lost
from trainer.options import Debug, Device, Json, RunPath, Threads

Store = Annotated[str | None, typer.Option(help="Split store to evaluate on.", show_default="the run's own")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATHS…", help="Images, and folders of them.", show_default=False)]
Source = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of an export.", show_default=False)]
Format = Annotated[str, typer.Option("--format", help="csv or jsonl.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write.", show_default="standard output")]
Folder = Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write.", show_default="RUN/export")]
Onnx = Annotated[bool, typer.Option("--onnx", help="Write model.onnx too, and check it (extra `onnx`).")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs.", show_default=False)]
Page = Annotated[
    Path | None, typer.Option("-o", "--output", help="File to write.", show_default="report.html beside the runs")
]


def eval(
    run: RunPath,
    store: Store = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a run's averaged and live weights: errors, calibration, AUROC of foreign images."""
    _use(threads)
    from trainer.reevaluate import reevaluate

    found = reevaluate(run, store, device or "auto")
    if as_json:
        typer.echo(json.dumps(found))
        return
    elsewhere = "" if found["same_store"] else ", not the store it was trained from"
    typer.echo(f"{found['run']}, step {found['step']:,}, on {found['store']}{elsewhere}")
    for name in ("averaged", "raw"):
        typer.echo(f"{name:9} {_line(found[name])}")
    typer.echo("")
    width = max(len(name) for name in found["averaged"]["per_class_error"])
    for name, error in found["averaged"]["per_class_error"].items():
        typer.echo(f"{name:{width}}  {'no image' if error is None else f'{error:6.2f} %'}")


def _line(one: dict[str, Any] | None) -> str:
    if one is None:
        return "gone: the run has no checkpoint any more"
    parts = [f"error {one['test_error']:.2f} % of {one['test_images']:,}"]
    if one["valid_error"] is not None:
        parts.append(f"valid {one['valid_error']:.2f} %")
    parts.append(f"ECE {100 * one['calibration']['ece']:.2f} %")
    detection = one["detection"]
    if detection is not None and detection["auroc"] is not None:
        parts.append(f"AUROC of foreign images {detection['auroc']:.3f}")
    return ", ".join(parts)


def predict(
    run: Source,
    paths: Paths,
    format: Format = "csv",
    output: Output = None,
    device: Device = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Classify images of any size: class, probabilities, and for images of no class an OOD score, 1 − the largest."""
    _use(threads)
    from trainer import hardware, predict, weights

    write = predict.writer(format)
    trained = weights.find(run)
    files = predict.image_files(paths)
    lines = write(predict.predict(trained, files, hardware.usable(device or "auto")), trained.class_names)
    if output is None:
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a file's name is any bytes
        sys.stdout.writelines(takewhile(lambda _: not is_lost(sys.stdout), lines))
        return
    aside = output.with_name(f".{output.name}.tmp")
    try:
        with aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            out.writelines(lines)
        aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)
    typer.echo(f"{output}: {len(files):,} images", err=True)


def export(run: RunPath, output: Folder = None, onnx: Onnx = False, debug: Debug = False) -> None:
    """Write weights (safetensors), a model card and, with `--onnx`, an ONNX graph to a folder."""
    from trainer.export import export as write
    from trainer.run import open_run

    for path in write(open_run(run), output or run / "export", onnx):
        typer.echo(path)


def report(runs: Runs, output: Page = None, debug: Debug = False) -> None:
    """Write one HTML page about a run, or about several: curves, errors, calibration, comparison over seeds."""
    from trainer.report import write

    typer.echo(write(runs, output))


def _use(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
