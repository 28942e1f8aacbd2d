"""Loggers for Lightning's Trainer that Lightning itself does not bring."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """Numbers, pictures and videos to Trackio (extra ``trackio``), kept on this machine unless ``space_id`` is given.

    Args:
        name: of the run; its files are in ``save_dir``/``name``.
        project: that the run belongs to.
        save_dir: folder of all runs.
        space_id: a Hugging Face Space, organisation/name, to log to.

    Raises ``ModuleNotFoundError`` without Trackio.
    """

    def __init__(
        self, name: str, *, project: str = "jepakit", save_dir: str = "runs", space_id: str | None = None
    ) -> None:
        super().__init__()
        try:
            import trackio
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("TrackioLogger: Trackio not found: pip install 'jepakit[trackio]'") from error
        self._trackio = trackio
        self._name, self._project, self._folder, self._space_id = name, project, Path(save_dir) / name, space_id
        self._settings: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        """Of the project."""
        return self._project

    @property
    def version(self) -> str:
        """The run's name."""
        return self._name

    @property
    def save_dir(self) -> str:
        """Folder of the run."""
        return str(self._folder)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401 (Trackio has no types)
        """Trackio's run, which starts when it is first asked for."""
        if self._run is None:
            self._run = self._trackio.init(
                self._project, name=self._name, space_id=self._space_id, config=self._settings
            )
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Settings of a run that has not started yet."""
        self._settings |= vars(params) if isinstance(params, Namespace) else params

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        """Log picture files."""
        for image in images:
            self.experiment.log({key: self._trackio.Image(image)}, step=step)

    @rank_zero_only
    def log_video(self, key: str, videos: list[str], step: int | None = None) -> None:
        """Log video files."""
        for video in videos:
            self.experiment.log({key: self._trackio.Video(video)}, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()
