"""Known against foreign test images: how well a run tells them apart, and how often it is right about all of them.

A method with heads that judge (OpenMatch, IOMatch) is asked for its own scores and rejections. Any other scores by
1 − the largest probability and rejects what is above the 95 % quantile of its validation images' scores; without
validation images it rejects nothing. All is of the averaged weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stores import SplitStore
from trainer.contract import Method
from trainer.data.embedded import Readable, samples_of
from trainer.evaluation.evaluator import BATCH, Evaluator
from trainer.evaluation.foreign import quality
from trainer.evaluation.scorer import Scorer
from trainer.functional import ood_scores

QUANTILE = 0.95  # of validation images that are not rejected

Outputs = dict[str, torch.Tensor]


def measure(
    evaluator: Evaluator, store: SplitStore, method: Method | None, scorer: Scorer | None
) -> dict[str, Any] | None:
    """Measure the network `evaluator.model` on all test images of a store.

    Args:
        method: whose heads judge, if the network has them; None: it has none.
        scorer: the default score of foreign images; None: there is none.

    Returns:
        None if no test image is foreign, or no known one. known, foreign: their numbers; by: "heads" or "confidence",
        whose score it is that auroc and fpr95 are of; default: the same of the default score, or None; rejects: "heads"
        or "validation", or None where nothing is rejected; accuracy, balanced: share of images that are given their
        class, K for foreign ones, over all images and as the mean of the K + 1 classes' recalls; None without rejects.
    """
    tested = store.test[store.test_labels[store.test] >= 0]
    if not len(store.foreign) or not len(tested):
        return None
    judging = method if method is not None and method.judge is not None else None
    heads = ("classes", "features", *(judging.HEADS if judging is not None else ()))
    samples = samples_of(store)
    rows = np.concatenate([tested, store.foreign])
    outputs = _outputs(evaluator, samples.test, rows, heads)
    logits = outputs["classes"].double().numpy()
    known, classes = len(tested), store.num_classes
    foreign = np.arange(len(rows)) >= known
    labels = np.concatenate([store.test_labels[tested], np.full(len(store.foreign), classes)])
    predicted, by, rejects = logits.argmax(1), "confidence", None
    score = ood_scores.one_minus_confidence(logits)
    if judging is not None:
        assert judging.judge is not None
        said = judging.judge(outputs)
        score, predicted, by, rejects = said.score.double().numpy(), said.label.numpy(), "heads", "heads"
    elif len(store.valid):
        held = _outputs(evaluator, samples.train, store.valid, ("classes",))["classes"].double().numpy()
        threshold = np.quantile(ood_scores.one_minus_confidence(held), QUANTILE)
        predicted, rejects = np.where(score > threshold, classes, predicted), "validation"
    accuracy, balanced = right(labels, predicted) if rejects else (None, None)
    default = None if scorer is None else scorer.score(outputs["features"].double().numpy())
    return {
        "known": known,
        "foreign": len(store.foreign),
        "by": by,
        **quality(score, foreign),
        "default": None if default is None else quality(default, foreign),
        "rejects": rejects,
        "accuracy": accuracy,
        "balanced": balanced,
    }


def right(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Accuracy over all images, and the mean of the classes' recalls: int64 [n] twice to two numbers in [0, 1].

    Rejecting everything has a balanced accuracy of 1 / (K + 1), rejecting nothing K / (K + 1) at most.
    """
    hit = labels == predicted
    recalls = [hit[labels == label].mean() for label in np.unique(labels)]
    return float(hit.mean()), float(np.mean(recalls))


def _outputs(evaluator: Evaluator, array: Readable, rows: np.ndarray, heads: tuple[str, ...]) -> Outputs:
    """Outputs for these rows of an array, read a batch at a time."""
    parts = [
        evaluator.outputs(torch.from_numpy(array.read(rows[start : start + BATCH])), heads)
        for start in range(0, len(rows), BATCH)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in heads}
