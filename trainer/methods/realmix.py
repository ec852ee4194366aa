"""RealMix (Nair, Fuentes Alonso & Beltramelli 2019): MixMatch on stored copies, with TSA and a mask for foreign images.

What it adds to MixMatch (Berthelot et al. 2019): the unlabelled images come from the store's copies; labelled rows that
are already learnt do not count (training-signal annealing, TSA); neither do the unlabelled rows with the lowest
confidence, a share γ of them. Without copies, TSA and γ it is MixMatch. With γ = auto, which is not in the paper, γ is
estimated from features during training (`trainer.functional.mismatch_share`; from frozen ones `.foreign`).

Differs from the official code:
- TSA compares predictions with labels, as in the paper; there logits, so that it hardly ever acts (`tsa_legacy`);
- TSA is linear up to 250 labels unless it is set (§3.5); there off unless it is set;
- the mask drops exactly ⌊γn⌋ rows; there one more, and ties (`ood_strict`);
- every copy is drawn for itself; there all copies share one draw;
- with class mismatch the head has an output for each trained class, 6 in the paper's experiment; there all 10.

Differs from the paper:
- algorithm 1, lines 26–27, applies the gradient to the averaged weights; here, as in the code, to the live ones, whose
  average is only evaluated.

As in the paper's code, a copy of an image takes its place: the original is not in the pool beside its copies. The
preset for the digits is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from trainer.contract import WEAK, Batch, Learner, Losses, Predictor, Sizes, Views, option
from trainer.functional import foreign, masks, mismatch_share, mixmatch, ops, schedules, scorer

if TYPE_CHECKING:
    from stores import SplitStore

NAME = "realmix"
SUMMARY = "MixMatch on stored copies, with training-signal annealing and an out-of-distribution mask"
VIEWS = 2
FEW_LABELS = 250  # up to which the labelled loss is annealed unless the user says otherwise
# Estimating γ: how often in a run, at least and at most how many steps apart, from how many images of each kind (with
# frozen features: labelled, unlabelled), and the largest γ used, so that some rows are left to learn from.
ESTIMATES, EVERY, IMAGES, WALKED, LARGEST = 20, (100, 500), 4000, (1000, 3000), 0.9


def share(store: SplitStore) -> float | Literal["auto"]:
    """The store's suggestion; "auto" where nobody knows what the unlabelled images are."""
    return "auto" if store.unknown_pool else store.gamma


def annealing(store: SplitStore) -> schedules.TSA:
    """The paper's choice for a split store: it found annealing to help with 250 labels or fewer (§3.5)."""
    return "linear" if len(store.labeled) <= FEW_LABELS else "none"


@dataclass(frozen=True)
class Settings:
    """Settings of RealMix. `tsa` and `gamma` are None only until the run knows its store."""

    alpha: float = option(0.75, "MixUp: λ ~ Beta(α, α), one for each image", above=0)
    lambda_u: float = option(75.0, "weight of the unlabelled loss once the ramp is over", min=0)
    temperature: float = option(0.5, "sharpening temperature of the guessed labels", above=0)
    rampup_steps: int = option(16384, "steps over which the unlabelled loss grows linearly", min=0)
    tsa: schedules.TSA = option(
        None,
        "training-signal annealing: none, linear, log or exp; unset: linear up to 250 labels, none above (§3.5)",
        from_store=annealing,
    )
    gamma: float | Literal["auto"] = option(
        None,
        "share of unlabelled rows that the out-of-distribution mask drops; auto: estimated from the features; "
        "unset: what the store suggests, or auto where it does not know what the unlabelled images are",
        min=0,
        max=1,
        from_store=share,
    )
    ood_confidence: Literal["mixed", "target", "feature"] = option(
        "mixed",
        "the mask's confidence: mixed (the prediction for the mixed row), target (the guessed label) or feature (how "
        "near labels are to the image among the features of all, which is not in the paper)",
    )
    ood_strict: bool = option(False, "mask one row more, and ties, as the authors' code does")
    tsa_legacy: bool = option(False, "TSA thresholds from logits, as in the authors' code")


PRESETS = {
    "cifar10": {"alpha": 0.75, "lambda_u": 75.0},
    "svhn": {"alpha": 0.75, "lambda_u": 250.0},
    "stl10": {"alpha": 0.75, "lambda_u": 50.0},
    "digits": {"rampup_steps": 300},  # ours; runs of about a thousand steps
    "embeddings": {"lambda_u": 5.0, "rampup_steps": 1000, "tsa": "none"},  # ours
}


def views(settings: Settings) -> Views:
    """Two weak views of one stored copy; the labelled images are not in the unlabelled set."""
    return Views(unlabeled=WEAK * VIEWS, source="copies")


def init_state(sizes: Sizes, settings: Settings) -> dict[str, Tensor]:
    """What the hook finds: `gamma`, float32 [], 0 until then; `known`, float32 [N_u], 1 − each foreign score."""
    state = {"gamma": torch.zeros(())} if _looks(settings) else {}
    return state | ({"known": torch.zeros(sizes.num_unlabeled)} if settings.ood_confidence == "feature" else {})


def _looks(settings: Settings) -> bool:
    """Whether the run looks at features."""
    return settings.gamma == "auto" or settings.ood_confidence == "feature"


def draw(rng: np.random.Generator, sizes: Sizes, settings: Settings) -> dict[str, np.ndarray]:
    """MixUp over all n = B + 2U rows: `lam` float32 [n] = max(λ, 1 − λ), `partner` int64 [n], a permutation."""
    return mixmatch.draw(rng, settings.alpha, sizes.labeled + VIEWS * sizes.unlabeled)


def schedule(step: int, steps: int, num_classes: int, settings: Settings) -> dict[str, float]:
    """`weight_u` = λ_U times its ramp; `tsa_threshold` = η."""
    return {
        "weight_u": settings.lambda_u * schedules.linear_ramp(step, settings.rampup_steps),
        "tsa_threshold": schedules.tsa_threshold(settings.tsa, step, steps, num_classes),
    }


def loss(learner: Learner, batch: Batch, settings: Settings) -> Losses:
    """One step of RealMix (algorithm 1), with as many unlabelled as labelled samples."""
    mixed = mixmatch.step(learner.model, batch.x, batch.y, batch.u, batch.draws, settings.temperature)

    # Labelled loss over the rows that are not yet learnt.
    errors_x = ops.cross_entropy(mixed.z_x, mixed.y_x)
    if settings.tsa == "none":
        keep_x = torch.ones_like(errors_x)
    else:
        keep_x = masks.tsa_mask(mixed.z_x, mixed.y_x, batch.schedule["tsa_threshold"], settings.tsa_legacy)
    loss_x = masks.kept_mean(errors_x, keep_x)

    # Unlabelled loss over the rows that look in-distribution.
    by_feature = settings.ood_confidence == "feature"
    if by_feature:
        confidence = learner.state["known"][batch.u_id].repeat(VIEWS)
    else:
        p_u = ops.softmax(mixed.z_u.detach()) if settings.ood_confidence == "mixed" else torch.cat([mixed.q] * VIEWS)
        confidence = p_u.amax(1)
    gamma = learner.state["gamma"] if settings.gamma == "auto" or by_feature else settings.gamma
    keep_u = masks.ood_mask(confidence, gamma, settings.ood_strict)
    loss_u = masks.kept_mean(ops.squared_error(mixed.z_u, mixed.y_u), keep_u)

    weight_u = batch.schedule["weight_u"]
    metrics = {
        "loss_x": loss_x,
        "loss_u": loss_u,
        "weight_u": weight_u,
        "tsa_kept": keep_x.mean(),
        "ood_kept": keep_u.mean(),
        "confidence": confidence.mean(),
    }
    if isinstance(gamma, Tensor):
        metrics["gamma"] = gamma.clone()
    return Losses(loss_x + weight_u * loss_u, metrics, keep_u)


def hook_every(steps: int, settings: Settings) -> int | None:
    """Where features are looked at: a twentieth of the run, 100 to 500 steps."""
    least, most = EVERY
    return max(least, min(most, steps // ESTIMATES)) if _looks(settings) else None


def hook(predictor: Predictor, state: dict[str, Tensor], settings: Settings) -> None:
    """Estimate `gamma`, and find `known`, from plain labelled and unlabelled images; from embeddings once."""
    every = hook_every(predictor.steps, settings)
    if predictor.frozen and every is not None and predictor.step > every:
        return
    most_x, most_u = WALKED if predictor.frozen else (IMAGES, IMAGES)
    x = ops.concatenate(predictor.labeled("features", "classes", most=most_x))
    u = ops.concatenate(predictor.unlabeled("features", "classes", most=most_u, without_labeled=True))
    features_x, features_u = (images["features"].double().numpy() for images in (x, u))
    labels = predictor.labels[x["position"].numpy()]
    guessed_x, guessed_u = (images["classes"].argmax(1).numpy() for images in (x, u))
    if settings.gamma != "auto":
        share = settings.gamma
    elif predictor.frozen:
        share = foreign.estimate(features_x, labels, features_u)
    else:
        share = mismatch_share.estimate(features_x, guessed_x, features_u, guessed_u, predictor.num_classes)
    state["gamma"].fill_(min(share, LARGEST))
    if "known" in state:
        guesses = None if predictor.frozen else (guessed_x, guessed_u, predictor.num_classes)
        score = scorer.fit(features_x, labels, features_u, guesses).scorer.score
        for positions, outputs in predictor.unlabeled("features"):
            known = 1 - score(outputs["features"].double().numpy())
            state["known"][torch.from_numpy(positions)] = torch.from_numpy(known).to(state["known"])
