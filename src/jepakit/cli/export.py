"""Export a world model with the settings and the held-out data of a configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jepakit.cli.evaluation import EvaluationPlannerConfig, check_fit
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.windows import WindowDataset, WindowSpec
from jepakit.export.bundle import Bundle, Precision
from jepakit.export.exporter import export_bundle
from jepakit.export.verify import Queries
from jepakit.zoo.base import WorldModel


def export_model(
    model: WorldModel,
    data: EpisodeDataModule,
    out: Path,
    *,
    planner: EvaluationPlannerConfig,
    precision: Precision,
    opset: int,
    horizon: int | None,
    queries: int,
    licence: str,
    overwrite: bool,
) -> Bundle:
    """Export ``model`` with the settings of ``planner``, verified on ``queries`` problems from the validation episodes.

    With 0 queries the data are not touched, and only fp32 can be exported.
    """
    if planner.macro_weights:
        raise ValueError(
            f"planner.macro_weights: found {planner.macro_weights!r}, expected none: planning on two time scales runs "
            "with PyTorch only; export the planner below without it"
        )
    horizon = planner.mpc.horizon if horizon is None else horizon
    drawn = None
    if queries:
        data.prepare_data()
        data.setup("validate")
        check_fit(model, data)
        drawn = draw_queries(model, data, count=queries, ahead=horizon)
    return export_bundle(
        model,
        out,
        horizon=horizon,
        precision=precision,
        opset=opset,
        planner=planner,
        readout=planner.load_readout(),
        controller=planner.load_controller(),
        distance=planner.load_distance(),
        queries=drawn,
        licence=licence,
        overwrite=overwrite,
    )


def draw_queries(model: WorldModel, data: EpisodeDataModule, *, count: int, ahead: int, seed: int = 0) -> Queries:
    """Draw planning problems from the validation episodes: a full history, and a goal ``ahead`` blocks after it.

    Not from the test episodes, because the products that keep float32 are chosen by these problems.
    """
    config = model.config
    windows = WindowDataset(
        data.source,
        data.parts["val"],
        WindowSpec(history=config.history, predictions=ahead, frame_skip=config.frame_skip),
        last_action=data.statistics.action_mean[: config.action_dim],
    )
    count = min(count, len(windows))
    chosen = np.random.default_rng(seed).choice(len(windows), size=count, replace=False)
    drawn = [windows[int(index)] for index in chosen]
    frames, actions = (np.stack([window[name].numpy() for window in drawn]) for name in ("pixels", "action"))
    proprio = None
    if getattr(config, "proprio_dim", 0):
        proprio = np.stack([window["proprio"].numpy() for window in drawn])
    return Queries(
        frames=frames[:, : config.history],
        past_actions=actions[:, : config.history - 1],
        goal_frames=frames[:, -1],
        proprio=None if proprio is None else proprio[:, : config.history],
        goal_proprio=None if proprio is None else proprio[:, -1],
    )
