"""Methods side by side: the same stores, network, steps and seeds for all, and one table of their errors.

    python benchmarks/compare.py --stores stores/digits_20 --seeds 1 2 3
    python benchmarks/compare.py --stores stores/cifar10_mismatch* --methods supervised realmix realmix:gamma=auto

A method may carry settings after a colon. Finished runs are not trained again, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.methods import METHODS

PROGRAM = str(Path(sys.executable).with_name("realmix-train"))


def train(store: Path, variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run's result.json, trained if it is not there yet."""
    method, _, settings = variant.partition(":")
    name = f"{store.name}_{variant}_s{seed}".replace(":", "_").replace(",", "_")
    run = Path(options.runs) / name
    if (run / "checkpoint.pt").exists():
        words = ["--resume", str(run)]
    else:
        words = ["--store", str(store), "--method", method, "--model", options.model, "--steps", str(options.steps)]
        words += ["--seed", str(seed), "--runs", options.runs, "--name", name]
        words += ["--threads", str(options.threads)] if options.threads else []
        words += [word for setting in settings.split(",") + options.set if setting for word in ("--set", setting)]
    done = subprocess.run([PROGRAM, *words, "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()}")
    print(done.stdout.strip(), file=sys.stderr, flush=True)
    return json.loads((run / "result.json").read_text())


def row(results: list[dict[str, Any]], steps: int) -> list[str]:
    """Error of the last step for each seed, their mean ± standard deviation, and the time of a step."""
    errors = [result["error_last"] for result in results]
    spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    seconds = statistics.median(result["seconds"] for result in results) / steps
    return [
        *(f"{error:.2f}" for error in errors),
        f"{statistics.fmean(errors):.2f}{spread}",
        f"{1000 * seconds:.0f} ms",
    ]


def gamma(results: list[dict[str, Any]]) -> str:
    """What the out-of-distribution mask did: share of the rows dropped, its precision and recall; runs pooled."""
    counts = [result["ood"] for result in results if result["ood"]]
    if not counts or not sum(c["masked"] for c in counts):
        return ""
    total = {name: sum(c[name] for c in counts) for name in ("masked_ood", "masked", "ood", "rows")}
    share, true = total["masked"] / total["rows"], total["ood"] / total["rows"]
    precision = total["masked_ood"] / total["masked"]
    recall = f", recall {total['masked_ood'] / total['ood']:.2f}" if total["ood"] else ""
    return f"masked {share:.2f} of the rows, {true:.2f} are foreign: precision {precision:.2f}{recall}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", nargs="+", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="names, or name:key=value,key=value")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--model", default="wrn-10-1")
    parser.add_argument("--set", nargs="*", default=[], help="settings of all runs")
    parser.add_argument("--runs", default="runs/compare")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, help="CPU threads of each run")
    options = parser.parse_args()
    keys = [(store, variant, seed) for store in options.stores for variant in options.methods for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = {key: pool.submit(train, *key, options) for key in keys}
        results = {key: future.result() for key, future in futures.items()}
    for store in options.stores:
        print(f"\n{store.name}: test error, %, of the last step ({options.steps:,} steps, {options.model})\n")
        print("| method | " + " | ".join(f"seed {seed}" for seed in options.seeds) + " | mean | a step | |")
        print("|---" * (len(options.seeds) + 4) + "|")
        for variant in options.methods:
            some = [results[store, variant, seed] for seed in options.seeds]
            print("| " + " | ".join([variant, *row(some, options.steps), gamma(some)]) + " |")


if __name__ == "__main__":
    main()
