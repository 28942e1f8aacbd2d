"""Exporting a world model: graphs, verification, bundle.

Shapes: H history frames, K horizon in blocks.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
import torch

import jepakit
from jepakit.export.bundle import (
    CARD,
    OPSETS,
    PRECISIONS,
    Bundle,
    Precision,
    graphs_of,
    is_bundle_alone,
    write_manifest,
)
from jepakit.export.card import model_card
from jepakit.export.graphs import export_graph, network_of, prepare
from jepakit.export.onnx_files import write_graphs
from jepakit.export.precision import MEASURES, distinct_measures, lower, rounded
from jepakit.export.runtime.onnx_backend import OnnxBackend
from jepakit.export.runtime.torch_backend import GoalCost, TorchBackend
from jepakit.export.verify import (
    LARGEST_ERROR,
    LARGEST_EXCESS,
    LEAST_OVERLAP,
    Queries,
    VerificationError,
    candidate_counts,
    numerical_errors,
    planning_errors,
)
from jepakit.planning.backend import PlannerSpec
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo.base import WorldModel
from jepakit.zoo.config import plain_config
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.files import fingerprint
from jepakit.zoo.module import WorldModelModule
from jepakit.zoo.readout import Readout

_OPSET = 20
_TOGETHER = 3  # environments in one call while verifying: the largest batch that is compared


def export_bundle(
    model: WorldModel | WorldModelModule,
    out: str | Path,
    *,
    horizon: int = 5,
    precision: Precision = "fp32",
    opset: int = _OPSET,
    planner: PlannerConfig | None = None,
    readout: Readout | None = None,
    controller: ControllerModel | None = None,
    distance: GoalCost | None = None,
    queries: Queries | None = None,
    licence: str = "not stated",
    overwrite: bool = False,
) -> Bundle:
    """Write ``model`` as ONNX graphs with all that a planner needs, verified against PyTorch, into the folder ``out``.

    Args:
        model: the world model, or the Lightning module around it, with its statistics set. It is not changed.
        out: folder to write; it appears complete or not at all.
        horizon: most blocks that the graphs imagine, K; shorter plans work, longer ones do not.
        precision: of the matrix products; the rest is float32. ``int8`` is for ONNX Runtime.
        opset: of ONNX's operators.
        planner: settings that travel with the model.
        readout: physical quantities to read off imagined latents.
        controller: what proposes plans, trained on this very model; always float32.
        distance: what judges how far imagined latents are from the goal, in place of the model's own distance.
        queries: real planning problems to verify with; required for any precision but ``fp32``.
        licence: of the weights, for manifest and card.
        overwrite: replace an existing bundle; a folder that holds anything else is never replaced.

    Raises ``ValueError`` for a model that reads something else than frames and for settings that do not fit,
    ``FileExistsError`` for a folder that is there already, and ``VerificationError`` with the figures where a graph
    does not compute what the model does.
    """
    out = Path(out).expanduser().absolute()
    _check_place(out, overwrite=overwrite)
    _check_settings(precision, opset, queries)
    pure = model if isinstance(model, WorldModel) else model.model
    reference = _reference(pure, readout, controller, distance)
    spec = replace(reference.spec, horizon=horizon)
    _check_planner(planner, reference, horizon)
    if queries is not None:
        queries.check(spec)
        if precision != "fp32" and len(queries.frames) < spec.history:
            raise ValueError(
                f"queries: found {len(queries.frames)}, expected at least {spec.history} to verify {precision}: every "
                "length of the history has a graph of its own"
            )
    prepared = prepare(pure)
    graphs = {
        name: export_graph(
            network_of(name, prepared, reference.readout, reference.controller, reference.distance), graph, opset=opset
        )
        for name, graph in graphs_of(spec).items()
    }
    values = {
        "jepakit": jepakit.__version__,
        "model": {"family": pure.name, "config": plain_config(pure.config), "weights": fingerprint(pure)},
        "opset": opset,
        "precision": precision,
        "planner": None if planner is None else planner.plain(),
        "licence": licence,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        verifier = _Verifier(
            reference=reference, spec=spec, values=values, scratch=Path(scratch), queries=queries, planner=planner
        )
        folder, figures = verifier.full_precision(graphs)
        if precision != "fp32":
            folder, more = verifier.reduced_precision(graphs, precision)
            figures |= more
        _describe(folder, {**values, "verification": figures}, spec)
        _put(folder, out)
    return Bundle.open(out)


@dataclass(frozen=True, kw_only=True)
class _Verifier:
    """Writes graphs as bundles into ``scratch`` and compares the engine that runs them with the ``reference``."""

    reference: TorchBackend
    spec: PlannerSpec
    values: Mapping[str, Any]
    scratch: Path
    queries: Queries | None
    planner: PlannerConfig | None

    def full_precision(self, graphs: Mapping[str, ir.Model]) -> tuple[Path, dict[str, Any]]:
        """Return a folder with float32 graphs and their figures; raises ``VerificationError`` where one is wrong."""
        folder = self._write(lower(graphs, "fp32", MEASURES[0]), "fp32")
        engine = self._open(folder)
        errors = numerical_errors(self.reference, engine, self.queries)
        if not all(error <= LARGEST_ERROR for error in errors.values()):
            raise VerificationError(
                f"fp32: found relative errors {errors}, expected at most {LARGEST_ERROR}: the exported graphs do not "
                "compute what the model computes; nothing was written"
            )
        figures: dict[str, Any] = {
            "engine": f"ONNX Runtime {onnxruntime.__version__} on a CPU against PyTorch {torch.__version__}",
            "candidates": list(candidate_counts(self.spec)),
            "fp32": {"relative_error": errors},
        }
        if self.queries is not None:
            figures["fp32"]["planning"] = planning_errors(self.reference, engine, self.queries, self.planner)
        return folder, figures

    def reduced_precision(self, graphs: Mapping[str, ir.Model], precision: Precision) -> tuple[Path, dict[str, Any]]:
        """Return a folder with the first graphs of reduced precision that plan like the model, and their figures.

        Raises ``VerificationError`` where even the last measure is not enough.
        """
        assert self.queries is not None
        rejected: list[dict[str, Any]] = []
        for measure in distinct_measures(graphs):
            folder = self._write(lower(graphs, precision, measure), precision)
            tested = folder
            if precision != "int8":  # ONNX Runtime's CPU has no such products: it gets a twin that rounds alike
                tested = self._write(rounded(graphs, precision, measure), "fp32")
            found = {
                "products": measure.says,
                "computed": "as exported" if tested == folder else "in float32, rounded before and after",
                **self._reduced_figures(folder, tested, precision),
            }
            planning = found["planning"]
            if (
                planning
                and planning["elite_overlap_mean"] >= LEAST_OVERLAP
                and planning["excess_cost"] <= LARGEST_EXCESS
            ):
                return folder, {precision: found, "rejected": rejected}
            rejected.append(found)
        raise VerificationError(
            f"{precision}: expected finite numbers, a mean elite overlap of at least {LEAST_OVERLAP} and plans that "
            f"cost at most {LARGEST_EXCESS:.0%} more than PyTorch's, found "
            + "; ".join(
                f"{found['planning'] or found['relative_error']} with {found['products']} in {precision}"
                for found in rejected
            )
            + "; nothing was written. Export with fp32, or give more queries if these are not typical"
        )

    def _reduced_figures(self, folder: Path, tested: Path, precision: Precision) -> dict[str, Any]:
        """Figures of the graphs in ``tested``; where one is not finite it is ``None``, and there is no plan either.

        ONNX Runtime reads float16 graphs, too, although it computes them in float32: so those are compared as well.
        """
        assert self.queries is not None
        engine = self._open(tested)
        errors = numerical_errors(self.reference, engine, self.queries)
        if precision == "fp16":
            as_exported = numerical_errors(self.reference, self._open(folder), self.queries)
            errors = {graph: max(error, as_exported[graph]) for graph, error in errors.items()}
        finite = {graph: error if math.isfinite(error) else None for graph, error in errors.items()}
        planning = (
            None if None in finite.values() else planning_errors(self.reference, engine, self.queries, self.planner)
        )
        return {"relative_error": finite, "planning": planning}

    def _write(self, graphs: Mapping[str, ir.Model], precision: Precision) -> Path:
        """Write graphs as a bundle that says nothing about verification yet."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch)) / "bundle"
        folder.mkdir()
        write_graphs(graphs, folder)
        _describe(folder, {**self.values, "precision": precision, "verification": {}}, self.spec)
        return folder

    def _open(self, folder: Path) -> OnnxBackend:
        most = candidate_counts(self.spec)[-1]
        return OnnxBackend(folder, candidates_per_call=most, environments_per_call=_TOGETHER)


def _describe(folder: Path, values: Mapping[str, Any], spec: PlannerSpec) -> None:
    (folder / CARD).write_text(model_card(values, spec), encoding="utf-8")
    write_manifest(folder, values, spec)


def _check_place(out: Path, *, overwrite: bool) -> None:
    """Raise ``FileExistsError`` unless ``out`` is free, or may be replaced by a bundle and shall be."""
    if not out.exists():
        return
    if not out.is_dir() or not (is_bundle_alone(out) or not any(out.iterdir())):
        raise FileExistsError(
            f"{out}: found files that are not a bundle's, expected none, or a bundle and its engines alone; choose "
            "another folder"
        )
    if not overwrite:
        raise FileExistsError(f"{out}: exists already; choose another folder, or pass overwrite to replace it")


def _put(folder: Path, out: Path) -> None:
    """Move the finished bundle to its place; one that is there goes away only when the new one has taken its place."""
    old = folder.with_name("replaced")
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise


def _reference(
    model: WorldModel, readout: Readout | None, controller: ControllerModel | None, distance: GoalCost | None
) -> TorchBackend:
    """PyTorch's answer, from a copy, so that the caller's model keeps its device and mode."""
    try:
        return TorchBackend(
            copy.deepcopy(model).cpu(),
            readout=copy.deepcopy(readout),
            controller=copy.deepcopy(controller),
            distance=copy.deepcopy(distance),
        )
    except ValueError as error:
        remedy = "; only models that read frames can be exported" if str(error).startswith("observation:") else ""
        raise ValueError(f"model: {error}{remedy}") from error


def _check_settings(precision: str, opset: int, queries: Queries | None) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision: found {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if opset not in OPSETS:
        raise ValueError(f"opset: found {opset}, expected {OPSETS.start} to {OPSETS[-1]}")
    if precision != "fp32" and queries is None:
        raise ValueError(
            f"queries: found none, expected real planning problems, without which {precision} cannot be verified; "
            "`lightning export` draws them from held-out episodes"
        )


def _check_planner(planner: PlannerConfig | None, reference: TorchBackend, horizon: int) -> None:
    if planner is None:
        return
    if planner.mpc.horizon > horizon:
        raise ValueError(
            f"horizon: found {horizon}, expected at least the planner's mpc.horizon, {planner.mpc.horizon}"
        )
    if planner.solver == "gradient":
        raise ValueError("planner.solver: found 'gradient', which needs PyTorch; choose another for the bundle")
    if (planner.proposals or planner.solver == "controller") and not reference.spec.proposals:
        raise ValueError(
            "planner: found settings that ask a controller, expected one in the bundle; export it with one"
        )
    planner.policy(reference)  # what a robot would be refused with
