# %% [markdown]
# # A new method in sixty lines
#
# Temporal ensembling (Laine & Aila 2017, §2.2): what the network said of an image in earlier steps, averaged, is the
# target for what it says now. That needs a memory with a row for each unlabelled image; the trainer keeps it, saves
# it and restores it.

# %%
from dataclasses import dataclass

import torch

import realmix
from trainer.contract import WEAK, Losses, Views, option
from trainer.functional import ops, schedules

# %% [markdown]
# A method is any object with these attributes. `settings` are checked against their types and limits, and listed by
# `realmix-train methods`.


# %%
class TemporalEnsembling:
    NAME = "temporal_ensembling"
    SUMMARY = "predictions of earlier steps, averaged, are the targets"
    PRESETS = {"digits": {"rampup_steps": 300}}

    @dataclass(frozen=True)
    class Settings:
        decay: float = option(0.6, "share of the memory that a new prediction keeps", min=0, below=1)
        weight: float = option(30.0, "of the unlabelled loss once the ramp is over", min=0)
        rampup_steps: int = option(16384, "steps over which that weight grows", min=0)

    @staticmethod
    def views(settings):
        """One weak view of each unlabelled image."""
        return Views(unlabeled=WEAK)

    @staticmethod
    def init_state(sizes, settings):
        """Z, the sum of predictions, and how often each image was seen: in the checkpoint, on the device."""
        return {"sums": torch.zeros(sizes.num_unlabeled, sizes.num_classes), "seen": torch.zeros(sizes.num_unlabeled)}

    @staticmethod
    def schedule(step, steps, num_classes, settings):
        """Numbers that change with the step, and nothing else."""
        return {"weight_u": settings.weight * schedules.linear_ramp(step, settings.rampup_steps)}

    @staticmethod
    def loss(learner, batch, settings):
        z_x, z_u = learner.model(batch.x, update=0), learner.model(batch.u[0])
        loss_x = ops.cross_entropy(z_x, ops.one_hot(batch.y, z_x.shape[1])).mean()

        sums, seen, rows = learner.state["sums"], learner.state["seen"], batch.u_id
        known = (seen[rows] > 0).float()  # an image that was never seen has no target
        target = sums[rows] / (1 - settings.decay ** seen[rows]).clamp_min(1e-6)[:, None]
        loss_u = (known * ops.squared_error(z_u, target)).mean()

        with torch.no_grad():
            sums[rows] = settings.decay * sums[rows] + (1 - settings.decay) * ops.softmax(z_u.detach())
            seen[rows] += 1
        weight = batch.schedule["weight_u"]
        return Losses(loss_x + weight * loss_u, {"loss_x": loss_x, "loss_u": loss_u, "weight_u": weight})


realmix.register_method(TemporalEnsembling)

# %% [markdown]
# It trains like all others: the same splits, augmentation, optimiser, average and evaluation, killed and resumed.

# %%
built = realmix.build("digits", copies=2)
for method in ("supervised", "temporal_ensembling"):
    run = realmix.train(built.splits[0], method, steps=1000, model="wrn-10-1", batch=16, quiet=True)
    print(f"{method:20} {run.error:.1f} %")
