"""Export a world model with the settings and the held-out data of a configuration."""

from __future__ import annotations

from pathlib import Path

from jepakit.cli.evaluation import EvaluationPlannerConfig, check_fit
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import draw_windows
from jepakit.datamodules.windows import WindowSpec
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
    """Draw planning problems from the validation episodes: a full history, and a goal ``ahead`` blocks after it."""
    config = model.config
    window = WindowSpec(history=config.history, predictions=ahead, frame_skip=config.frame_skip)
    drawn = draw_windows(data, window, count=count, seed=seed)
    frames, actions = drawn["pixels"], drawn["action"]
    proprio = drawn["proprio"] if getattr(config, "proprio_dim", 0) else None
    return Queries(
        frames=frames[:, : config.history],
        past_actions=actions[:, : config.history - 1],
        goal_frames=frames[:, -1],
        proprio=None if proprio is None else proprio[:, : config.history],
        goal_proprio=None if proprio is None else proprio[:, -1],
    )
