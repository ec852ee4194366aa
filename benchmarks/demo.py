"""The main job on data that needs no download: what 20 labels give alone, and what RealMix makes of the rest.

Builds the digits store with 50 CutOut copies of every image, trains the supervised baseline and RealMix from the same
split store with two seeds each, prints both errors and draws the curves. Finished steps are not done again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

mpl.use("Agg")
import matplotlib.pyplot as plt

SEEDS = (1, 2)
STEPS = 1000
METHODS = ("supervised", "realmix")
NAMES = {"supervised": "supervised, 20 labels", "realmix": "RealMix, 20 labels + 50 copies of the others"}


def command(program: str, *words: str) -> None:
    """Run one of the two commands as a user would, showing it first."""
    print(f"\n$ {program} {' '.join(words)}", flush=True)
    subprocess.run([str(Path(sys.executable).with_name(program)), *words], check=True)


def train(method: str, seed: int, runs: Path) -> Path:
    """Train one run, or continue it, or find it finished; returns its folder."""
    run = runs / f"{method}_s{seed}"
    if (run / "result.json").exists():
        print(f"{run} is finished")
    elif (run / "checkpoint.pt").exists():
        command("realmix-train", "--resume", str(run))
    else:
        command(
            "realmix-train", "--store", "stores/digits_20", "--method", method, "--model", "wrn-10-1",
            "--steps", str(STEPS), "--seed", str(seed), "--runs", str(runs), "--name", run.name,
        )  # fmt: skip
    return run


def draw_curves(runs: dict[str, list[Path]], picture: Path) -> None:
    """Error of the averaged model on the test set against steps, a thin line a seed, a thick one their mean."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (method, folders), colour in zip(runs.items(), ("#8a8f98", "#d1495b"), strict=True):
        curves = []
        for run in folders:
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            curves.append([(line["step"], line["test_error"]) for line in lines if line["kind"] == "eval"])
            axes.plot(*zip(*curves[-1], strict=True), color=colour, linewidth=0.8, alpha=0.6)
        mean = [(points[0][0], statistics.fmean(e for _, e in points)) for points in zip(*curves, strict=True)]
        axes.plot(*zip(*mean, strict=True), color=colour, linewidth=2.4, label=NAMES[method])
    axes.set(xlabel="step", ylabel="test error, %", ylim=(0, None), xlim=(0, STEPS))
    axes.set_title("Handwritten digits, 8 × 8, WRN-10-1", loc="left", fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb")
    figure.savefig(picture, dpi=150)


def main() -> None:
    began = time.monotonic()
    runs_folder = Path("runs/demo")
    command("realmix-data", "build", "digits", "--copies", "50")
    runs = {method: [train(method, seed, runs_folder) for seed in SEEDS] for method in METHODS}
    table = Table(title=f"Test error, %, of the last step ({STEPS} steps, WRN-10-1)", title_justify="left")
    for column in ("method", *(f"seed {seed}" for seed in SEEDS), "mean"):
        table.add_column(column, justify="left" if column == "method" else "right")
    means = {}
    for method, folders in runs.items():
        errors = [json.loads((run / "result.json").read_text())["error_last"] for run in folders]
        means[method] = statistics.fmean(errors)
        table.add_row(NAMES[method], *(f"{error:.2f}" for error in errors), f"{means[method]:.2f}")
    draw_curves(runs, runs_folder / "curves.png")
    console = Console()
    console.print()
    console.print(table)
    ratio = means["realmix"] / means["supervised"]
    print(f"RealMix's error is {ratio:.2f} of the supervised one. Curves: {runs_folder / 'curves.png'}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
