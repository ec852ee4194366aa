"""The training loop: a batch, a step; lines, evaluations and checkpoints when they are due.

It waits for the device only where a line, an evaluation, a checkpoint or an estimate is due. Of several processes, the
first one evaluates and writes; all stop at the same step.
"""

from __future__ import annotations

import contextlib

from stores.errors import Interrupted, RealMixError
from stores.system import interrupts
from trainer import distributed
from trainer.data.prefetch import Prefetch
from trainer.evaluation.mismatch_share import LARGEST
from trainer.loop.parts import Parts
from trainer.loop.recorder import Recorder
from trainer.loop.train_step import build_step
from trainer.runs.run_dir import how_to_continue

AGREE_EVERY = 10  # steps between two questions whether any process was told to stop
ESTIMATES = 20  # of γ in a run, as far as the next line allows
ESTIMATE_EVERY = (100, 500)  # steps between two of them, at least and at most


def train(parts: Parts, recorder: Recorder) -> None:
    """Train from `parts.state.step` to the end of the run; the last step is logged, evaluated and saved.

    Raises:
        RealMixError: the loss became non-finite, and the last good checkpoint is left as it was; or a step's images
            could not be read, and a checkpoint of the step before was written.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; a checkpoint was written.
    """
    spec, state, loader = parts.spec, parts.state, parts.loader
    step = build_step(state, spec.method, spec.settings, spec.run, loader.schedule_names)
    alone, shown = distributed.world() == 1, (state.step, spec.run.steps - 1)
    with (
        loader,
        Prefetch(loader.prepare, range(state.step, spec.run.steps)) as ahead,
        # several processes stop at the same step, which needs its images
        interrupts.held(ahead.stop if alone else lambda: None) as stopped,
    ):
        while state.step < spec.run.steps:
            try:
                raw = loader.batch(ahead.take())
            except Exception as error:  # whatever keeps a step's images away, the steps before it are good
                if stopped():
                    _save_last(recorder)
                    raise _interrupted(parts, recorder) from error
                _save_before(error, parts, recorder)
                raise
            if state.step in shown:
                recorder.show(raw)
            state.telemetry.add(step(raw), raw.ood)
            state.step += 1
            recorder.tick(ahead.waited)
            # several processes ask one another only now and then: each question is a message to all
            stop = stopped() if alone else _is_due(parts, AGREE_EVERY) and distributed.agree(stopped())
            _do_what_is_due(parts, recorder, ahead.waited, stop)
            if stop:
                raise _interrupted(parts, recorder)


def _do_what_is_due(parts: Parts, recorder: Recorder, waited: float, stop: bool) -> None:
    """After a step: the estimate, the line, the evaluation and the checkpoint, in this order."""
    spec, run = parts.spec, parts.spec.run
    estimate = spec.method.views(spec.settings).mismatch and _is_due(parts, estimate_every(run.steps))
    log, evaluate = _is_due(parts, run.log_every), _is_due(parts, run.eval_every)
    save = stop or _is_due(parts, run.checkpoint_every)
    if estimate or log or evaluate or save:
        recorder.refuse_non_finite()
    if estimate:
        with recorder.aside():
            _estimate(parts)
    if log:
        recorder.log(waited)
    if evaluate:
        recorder.evaluate()
    if save:
        recorder.save()


def _is_due(parts: Parts, every: int) -> bool:
    return parts.state.step % every == 0 or parts.state.step == parts.spec.run.steps


def estimate_every(steps: int) -> int:
    """Steps between two estimates of γ in a run of so many."""
    least, most = ESTIMATE_EVERY
    return max(least, min(most, steps // ESTIMATES))


def _estimate(parts: Parts) -> None:
    """The share of foreign images into the method's state, the same in all processes."""
    gamma = parts.state.method["gamma"]
    if parts.sample is not None:
        parts.state.ema.apply_to(parts.evaluator.model)
        gamma.fill_(min(parts.sample.share(parts.evaluator), LARGEST))
    distributed.from_first(gamma)


def _interrupted(parts: Parts, recorder: Recorder) -> Interrupted:
    return Interrupted(f"interrupted at step {parts.state.step}", hint=how_to_continue(recorder.path))


def _save_last(recorder: Recorder) -> None:
    """The last whole step, without what is due after it."""
    recorder.refuse_non_finite()
    recorder.save()


def _save_before(error: Exception, parts: Parts, recorder: Recorder) -> None:
    """Save before an error ends the run, and let it say so; where that fails too, the error is as it was."""
    if distributed.rank() != 0:
        return
    with contextlib.suppress(OSError, RealMixError):
        _save_last(recorder)
        if isinstance(error, RealMixError):
            saved = f"step {parts.state.step:,} is saved: {how_to_continue(recorder.path)}"
            error.hint = "\n  ".join(filter(None, (error.hint, saved)))
