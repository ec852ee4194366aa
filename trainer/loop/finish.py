"""The end of a run: the weights to hand on, and result.json."""

from __future__ import annotations

from typing import Any

from trainer.evaluation.assess import assess
from trainer.evaluation.evaluator import summary
from trainer.loop.parts import Parts
from trainer.runs import weights
from trainer.runs.record import range_of
from trainer.runs.run_dir import Run
from trainer.runs.telemetry import mask_quality


def finish(parts: Parts, folder: Run) -> dict[str, Any]:
    """Write the averaged weights and the result of a run that has made its last step.

    Returns:
        content of result.json, errors in per cent.
    """
    store, run, evaluator, state = parts.spec.store, parts.spec.run, parts.evaluator, parts.state
    state.ema.apply_to(evaluator.model)
    size, range_ = store.dataset.image_size, range_of(store.dataset)
    embedding = folder.config["store"].get("embedding")
    weights.export(folder.path, evaluator.model, run.model, store.class_names, size, range_, embedding)
    found = assess(evaluator, store)
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
        "detection": found["detection"],
        "history": state.history,
    }
    folder.write_result(result)
    return result
