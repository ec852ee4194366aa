"""What a run on a CPU does where nothing else is asked for: a small network, for as many steps as end in minutes.

The papers' run, WRN-28-2 for 500,000 steps of 64 labelled images, would take months there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from trainer.config import fine_tuning
from trainer.config.build import FOUR_GROUPS
from trainer.config.run import RunConfig

if TYPE_CHECKING:
    from trainer.contract import Options

THREE_GROUPS_OF, FOUR_GROUPS_OF = "wrn-10-1", "wrn-13-1"
BATCH = 16
STEPS, FEWEST, SIDE = 2_000, 200, 32  # steps with images of 32×32 pixels; fewer with larger ones
RAMP = 0.3  # share of the run over which unlabelled losses grow, where the papers' ramp would outlast it


def preset(asked: Collection[str], run: RunConfig, settings: Options, size: tuple[int, int]) -> dict[str, Any]:
    """Values of settings that nobody asked for.

    Args:
        asked: names of the settings that somebody did ask for.
        run: the configuration so far.
        settings: the method's.
        size: (height, width) of the images.
    """
    chosen: dict[str, Any] = {}
    if run.model is None:
        chosen["model"] = FOUR_GROUPS_OF if max(size) >= FOUR_GROUPS else THREE_GROUPS_OF
    of_the_papers = "steps" not in asked and run.steps == RunConfig.steps
    if of_the_papers and not fine_tuning.is_backbone(run.model):
        steps = int(round(STEPS * SIDE**2 / (size[0] * size[1]), -2))
        chosen |= {"steps": min(STEPS, max(FEWEST, steps)), "batch": BATCH}
        if (ramp := getattr(settings, "rampup_steps", 0)) > RAMP * chosen["steps"]:
            chosen["rampup_steps"] = min(ramp, round(RAMP * chosen["steps"]))
    return {name: value for name, value in chosen.items() if name not in asked}


def told(chosen: dict[str, Any], papers: str) -> list[str]:
    """Why a run is small, in one line of its deviations; none if it is as it was asked for.

    Args:
        chosen: by `preset`.
        papers: name of the papers' network for these images.
    """
    if not chosen.keys() & {"model", "steps"}:
        return []
    before = {"model": papers, "steps": RunConfig.steps, "batch": RunConfig.batch}
    named = [f"{name} {_said(chosen[name])} instead of {_said(old)}" for name, old in before.items() if name in chosen]
    options = ", ".join(f"--{name}" for name in before if name in chosen)
    return [f"{', '.join(named)}: what a CPU does in minutes; {options} ask for more"]


def _said(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
