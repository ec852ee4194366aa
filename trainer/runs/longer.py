"""A run made longer: its directory becomes that of an unfinished run of more steps, which is then resumed.

Schedules stay where they ended: the cosine at its last learning rate, training-signal annealing at 1. So a run of 1,000
steps that is made 3,000 long is a run of 3,000 steps with `schedule_steps=1000`, and goes on from the same checkpoint.
What the shorter run left is kept beside, as result_1000.json, model_1000.safetensors, and so on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from stores.errors import UsageError
from stores.system import durable
from trainer import config
from trainer.config import Resolved
from trainer.methods import load_method
from trainer.runs import checkpoint
from trainer.runs.run_dir import LEFT_AT_THE_END, Run, write_json


def finished(path: Path, run: Resolved) -> list[str]:
    """What there is to say to whoever resumes a run that has made all its steps."""
    said = f"{path} is finished: {run.steps:,} of {run.steps:,} steps"
    if load_method(run.method).fit is not None:
        return [said]
    return [said, f"→ `realmix-train --resume {path} --steps {2 * run.steps}` makes it longer"]


def extend(folder: Run, run: Resolved, steps: int) -> None:
    """Give a run a new length; killed at any moment, it can be resumed with the old or the new one.

    Args:
        folder: its directory, held by this process.
        run: its settings.
        steps: of the whole run, from its first one.

    Raises:
        UsageError: that is no more than it has, or its method is fitted at once.
        StoreError, IntegrityError: it has no checkpoint to go on from.
    """
    if load_method(run.method).fit is not None:
        raise UsageError(f"'{folder.path}' cannot be made longer", f"'{run.method}' is fitted at once")
    if steps <= run.steps:
        raise UsageError(
            f"'{folder.path}' has a length of {run.steps:,} steps",
            "a run can be made longer, not shorter",
            f"`realmix-train --resume {folder.path} --steps N` with a larger N: the steps of the whole run",
        )
    record = folder.config
    longer = dataclasses.replace(run, steps=steps, schedule_steps=run.scheduled)
    config.check(longer)
    checkpoint.read_own(folder.path, checkpoint.identity(record))  # else a good result would be moved for nothing
    for name in ("result.json", *LEFT_AT_THE_END):  # first the result: a run without it makes the others again
        path = folder.path / name
        if path.exists():
            path.rename(path.with_stem(f"{path.stem}_{run.steps}"))
    changes = {"steps": steps, "schedule_steps": longer.schedule_steps}
    said = f"made longer at {run.steps:,} steps: schedules stay where {run.scheduled:,} steps left them"
    write_json(
        folder.path / "config.json",
        record | {"run": record["run"] | changes, "deviations": [*record["deviations"], said]},
    )
    durable.sync_folder(folder.path)
