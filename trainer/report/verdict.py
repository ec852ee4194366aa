"""The first sentence about runs: do the unlabelled images help, by how much, and how sure is that?"""

from __future__ import annotations

from collections.abc import Sequence

from stores.errors import RealMixError
from trainer.report import records, significance
from trainer.report.records import Group, Record
from trainer.report.significance import Difference

LABELS_ALONE = ("supervised", "probe", "knn")  # methods that look at no unlabelled image
NEIGHBOURS = 200  # runs in the same folder among which a baseline is looked for


def of_groups(groups: Sequence[Group], names: Sequence[str]) -> str:
    """About groups of runs on the same data; "" if none has finished.

    Args:
        names: what each group is called.
    """
    means = [(mean[0], i) for i, one in enumerate(groups) if (mean := one.mean("error_last")) is not None]
    if not means:
        return ""
    alone = [one for one in means if groups[one[1]].first.run["method"] in LABELS_ALONE]
    helped = [one for one in means if one not in alone]
    if not helped:
        return "All of these runs learnt from the labels alone; what unlabelled images would add is not known."
    if not alone:
        command = _baseline(groups[0].first)
        return f"Whether the unlabelled images help is not known: `{command}` learns from the labels alone."
    (without, base), (with_, best) = min(alone), min(helped)
    found = significance.difference(groups[base], groups[best])
    errors = (
        f"{names[best]} is wrong about {with_:.1f} % of the test images, {names[base]}, which sees the labels alone, "
        f"about {without:.1f} %"
    )
    if found is None:
        return f"{errors}. They share no seeds and test images, so that the difference may be chance."
    said = f"{abs(found.mean):.1f} points, 95 % interval {spelled(found)}"
    if not found.is_clear:
        return f"The unlabelled images make no clear difference: {errors}. The difference is {said}."
    if found.mean < 0:
        return f"The unlabelled images do not help: even {errors}. It is worse by {said}."
    return f"The unlabelled images help: {errors}. It is better by {said}."


def of_run(record: Record) -> str:
    """About one run, beside the best finished one in its folder that learnt from the same labels alone."""
    if record.result is None:
        return ""
    error, chance = record.result["error_last"], chance_error(record)
    if chance is not None and error >= chance:
        return f"It is no better than guessing: always naming the most frequent class is wrong about {chance:.1f} %."
    if record.run["method"] in LABELS_ALONE:
        return "It learnt from the labels alone: what others are compared with."
    baseline = beside(record)
    if baseline is None:
        return of_groups([Group([record])], [record.name])
    return of_groups([Group([baseline]), Group([record])], [f"{baseline.run['method']} ({baseline.name})", record.name])


def beside(record: Record) -> Record | None:
    """The run in the same folder that learnt from the same labels alone and has the least error."""
    found = []
    for file in sorted(record.path.resolve().parent.glob("*/result.json"))[:NEIGHBOURS]:
        try:
            other = records.read(file.parent)
        except (RealMixError, OSError):  # a neighbour's damage is another day's error
            continue
        same = other.store["fingerprint"] == record.store["fingerprint"] and other.result is not None
        if same and other.run["method"] in LABELS_ALONE:
            found.append(other)
    return min(found, key=lambda other: (other.score("error_last") or 0, other.name), default=None)


def chance_error(record: Record) -> float | None:
    """Error in per cent of always naming the most frequent class of the test set; None of a run without a result."""
    if record.result is None:
        return None
    counts = [sum(row) for row in record.result["confusion"]]
    return 100 * (1 - max(counts) / sum(counts)) if sum(counts) else None


def spelled(found: Difference) -> str:
    """`1.2 to 4.5 over 5 seeds`."""
    ends = (found.low, found.high) if found.mean >= 0 else (-found.high, -found.low)
    reach = " to ".join(f"{end:.1f}".replace("-", "−") for end in ends)
    if found.images is None:
        return f"{reach} over {found.seeds} seeds"
    runs = "one run" if found.seeds == 1 else f"{found.seeds} runs"
    return f"{reach} over {found.images:,} test images of {runs} each; other seeds may say otherwise"


def _baseline(record: Record) -> str:
    """The command that trains the baseline of a run."""
    store, embeddings = record.store["path"], record.run.get("embeddings")
    how = f"--embeddings {embeddings} --method probe" if embeddings else "--method supervised"
    return f"realmix-train --store {store} {how}"
