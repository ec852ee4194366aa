"""The end of a run: the weights to hand on, what scores foreign images, outcomes, and result.json."""

from __future__ import annotations

from typing import Any

from trainer.data.embedded import EmbeddedSplit
from trainer.evaluation import foreign, outcomes, scorer
from trainer.evaluation.assess import assess, outcomes_of
from trainer.evaluation.evaluator import summary
from trainer.evaluation.predictor import PoolPredictor
from trainer.loop.parts import Parts
from trainer.runs import weights
from trainer.runs.record import range_of
from trainer.runs.run_dir import Run
from trainer.runs.telemetry import mask_quality


def _is_told(parts: Parts) -> bool:
    """Whether people are told the share of foreign images: nobody knows what the pool holds, and the estimate is good.

    It is from embeddings, and from features that RealMix has trained; networks that know their labelled images by heart
    take others for foreign.
    """
    trusted = isinstance(parts.spec.store, EmbeddedSplit) or "gamma" in parts.state.method
    return trusted and parts.spec.store.unknown_pool


def finish(parts: Parts, folder: Run) -> dict[str, Any]:
    """Write the averaged weights, the scorer of foreign images and the result of a run that has made its last step.

    Returns:
        content of result.json, errors in per cent.
    """
    store, run, evaluator, state = parts.spec.store, parts.spec.run, parts.evaluator, parts.state
    state.ema.apply_to(evaluator.model)
    size, range_ = store.dataset.image_size, range_of(store.dataset)
    embedding = folder.config["store"].get("embedding")
    weights.export(folder.path, evaluator.model, run.model, store.class_names, size, range_, embedding)
    judged = foreign.judge(PoolPredictor(store, store.unlabeled, evaluator, run.steps), foreign.SAMPLE)
    if judged is not None:
        scorer.save(folder.path, judged.scorer)
    tested = evaluator.held_out("test")
    found = assess(evaluator, store, judged, parts.spec.method, tested)
    outcomes.write(folder, outcomes_of(tested, store, judged))
    result = {
        "method": run.method,
        "model": run.model,
        "seed": run.seed,
        "steps": state.step,
        **summary(state.history),
        "seconds": state.seconds,
        "store": store.name,
        "store_fingerprint": store.fingerprint,
        "class_names": store.class_names,
        "per_class_error": found["per_class_error"],
        "confusion": found["confusion"],
        "ood": {**state.telemetry.counts, **mask_quality(state.telemetry.counts)} or None,
        "calibration": found["calibration"],
        "foreign": found["foreign"] and {**found["foreign"], "told": _is_told(parts)},
        "detection": found["detection"],
        "open_set": found["open_set"],
        "history": state.history,
    }
    folder.write_result(result)
    return result
