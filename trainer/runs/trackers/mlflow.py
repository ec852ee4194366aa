"""MLflow: the server or file that MLFLOW_TRACKING_URI names, or the package's default."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stores.errors import RealMixError
from stores.system.text import say
from trainer.runs import png
from trainer.runs.trackers import identity

LONGEST = 500  # characters of a parameter that every version takes


class MLflow:
    """A run of the experiment "realmix" under the run's own name; a resumed run continues it.

    Raises:
        RealMixError: no server or file answers.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self._mlflow, self._entities = (importlib.import_module(name) for name in ("mlflow", "mlflow.entities"))
        self._failed = False
        try:
            self._client = self._mlflow.MlflowClient()
            self._id = identity.kept(folder / "mlflow.id", lambda: self._create(folder.name, record))
            self._client.update_run(self._id, status="RUNNING")
        except self._mlflow.MlflowException as error:
            raise RealMixError(
                "MLflow cannot be used",
                str(error),
                f"MLFLOW_TRACKING_URI names a server, then `realmix-train --resume {folder}`",
            ) from None

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        metrics = [self._entities.Metric(name, float(value), now, step) for name, value in values.items()]
        self._send(lambda: self._client.log_batch(self._id, metrics=metrics))

    def picture(self, name: str, pixels: np.ndarray, step: int, legend: str = "") -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name.split('/')[-1]}-{step:07}.png"
            file.write_bytes(png.encode(pixels))
            self._send(lambda: self._client.log_artifact(self._id, str(file), name.split("/")[0]))

    def close(self) -> None:
        self._send(lambda: self._client.set_terminated(self._id))

    def _create(self, name: str, record: Mapping[str, Any]) -> str:
        experiment = self._client.get_experiment_by_name("realmix")
        number = self._client.create_experiment("realmix") if experiment is None else experiment.experiment_id
        run: str = self._client.create_run(number, run_name=name).info.run_id
        settings = {key: str(value)[:LONGEST] for key, value in identity.flat(record).items()}
        self._client.log_batch(run, params=[self._entities.Param(key, value) for key, value in settings.items()])
        return run

    def _send(self, call: Callable[[], object]) -> None:
        """A server that does not answer is no reason to end a run: metrics.jsonl has every number."""
        if self._failed:
            return
        try:
            call()
        except self._mlflow.MlflowException as error:
            self._failed = True
            say(f"MLflow gets no more curves of this run: {str(error).splitlines()[0]}", error=True)
