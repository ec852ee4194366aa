"""The training loop: a batch, a step; lines, evaluations and checkpoints when they are due.

It waits for the device only where a line, an evaluation, a checkpoint or the method's hook is due. Of several
processes, the first one evaluates and writes; all stop at the same step.
"""

from __future__ import annotations

import contextlib

from stores.errors import Interrupted, RealMixError
from stores.system import interrupts
from trainer import distributed
from trainer.augment.views import Raw
from trainer.contract import Losses
from trainer.loop.parts import Parts
from trainer.loop.recorder import Recorder
from trainer.loop.train_step import Step, build_step
from trainer.runs.run_dir import how_to_continue

AGREE_EVERY = 10  # steps between two questions whether any process was told to stop


def train(parts: Parts, recorder: Recorder) -> None:
    """Train from `parts.state.step` to the end of the run; the last step is logged, evaluated and saved.

    Raises:
        RealMixError: the loss became non-finite, and the last good checkpoint is left as it was; or a step's images
            could not be read, and a checkpoint of the step before was written.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; a checkpoint was written.
    """
    spec, state, loader = parts.spec, parts.state, parts.loader
    compiling = spec.run.engine == "compiled" and distributed.world() == 1
    with interrupts.at_once() if compiling else contextlib.nullcontext():
        step = build_step(state, spec.method, spec.settings, spec.run, loader.schedule_names)
    _choose_second(parts)
    hook_every = spec.method.hook_every(spec.run.scheduled, spec.settings)
    alone, shown = distributed.world() == 1, (state.step, spec.run.steps - 1)
    step = _ended_at_once(step) if compiling else step
    with (
        loader,
        # several processes stop at the same step, which needs its images
        interrupts.held(loader.stop if alone else lambda: None) as stopped,
    ):
        while state.step < spec.run.steps:
            try:
                raw = next(loader)
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
            recorder.tick(loader.waited)
            # several processes ask one another only now and then: each question is a message to all
            stop = stopped() if alone else _is_due(parts, AGREE_EVERY) and distributed.agree(stopped())
            _do_what_is_due(parts, recorder, hook_every, stop)
            if stop:
                raise _interrupted(parts, recorder)


def _ended_at_once(step: Step) -> Step:
    """A step whose first call, which compiles for a minute, an interruption ends at once: no update is lost by that."""
    compiled = False

    def call(raw: Raw) -> Losses:
        nonlocal compiled
        with contextlib.nullcontext() if compiled else interrupts.at_once():
            losses = step(raw)
        compiled = True
        return losses

    return call


def _do_what_is_due(parts: Parts, recorder: Recorder, hook_every: int | None, stop: bool) -> None:
    """After a step: the method's hook, the line, the evaluation and the checkpoint, in this order."""
    run = parts.spec.run
    hook = hook_every is not None and _is_due(parts, hook_every)
    log, evaluate = _is_due(parts, run.log_every), _is_due(parts, run.eval_every)
    save = stop or _is_due(parts, run.checkpoint_every)
    if hook or log or evaluate or save:
        recorder.refuse_non_finite()
    if hook:
        with recorder.aside():
            _call_hook(parts)
    if log:
        recorder.log(parts.loader.waited)
    if evaluate:
        recorder.evaluate()
    if save:
        recorder.save()


def _is_due(parts: Parts, every: int) -> bool:
    return parts.state.step % every == 0 or parts.state.step == parts.spec.run.steps


def _call_hook(parts: Parts) -> None:
    """The method's hook, with the averaged network; its state is the same in all processes afterwards."""
    spec, state = parts.spec, parts.state
    if parts.predictor is not None:
        state.ema.apply_to(parts.evaluator.model)
        parts.predictor.step = state.step
        spec.method.hook(parts.predictor, state.method, spec.settings)
    for tensor in state.method.values():
        distributed.from_first(tensor)
    _choose_second(parts)


def _choose_second(parts: Parts) -> None:
    """From here on the second unlabelled stream draws from the images that the method's state names."""
    if parts.loader.views.second:
        parts.loader.replace_second(parts.state.method["second"], parts.state.step)


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
