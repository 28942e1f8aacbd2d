"""Model cards from facts: what the checkpoint, the evaluation, the probes and the training's record say, no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jepakit
from jepakit.results import describe_goals, read_probe
from jepakit.zoo.weights import Checkpoint

TEMPLATE = Path(__file__).parent / "MODEL_CARD.md"
PAPERS = {
    "lewm": "LeWM, arXiv 2603.19312",
    "pldm": "PLDM, arXiv 2502.14819",
    "dinowm": "DINO-WM, arXiv 2411.04983",
    "cjepa": "C-JEPA, arXiv 2602.11389",
    "vjepa": "V-JEPA, arXiv 2404.08471, and V-JEPA 2, arXiv 2506.09985",
}
_LIMITS = (
    "What is said above is about the data and tasks named there; nothing is known about other cameras, objects, robots "
    "or goals. Keep an independent stop on anything that moves."
)


def model_card(
    checkpoint: Checkpoint,
    *,
    repository: str,
    licence: str,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    probes: Mapping[str, Mapping[str, Any]] | None = None,
    bundle: bool = False,
) -> str:
    """Return the card of a world model as Markdown with the Hub's metadata.

    ``training`` is the record beside the weights, ``evaluation`` the content of ``evaluation.json``, ``probes`` the
    last figures by probe. What is not given is said to be missing.
    """
    from huggingface_hub import ModelCard, ModelCardData

    config, name = checkpoint.config, repository.rpartition("/")[2].removeprefix("builtin:")
    results = None if evaluation is None else _results(evaluation, checkpoint.name)
    card_data = ModelCardData(
        library_name="jepakit",
        pipeline_tag="robotics",
        license=licence,
        tags=["world-model", "jepa", "model-predictive-control", checkpoint.name],
        model_name=name,
        eval_results=results,
    )
    data = {"name": "unknown data", **(training or {}).get("data", {})}
    content = ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        name=name,
        repository=repository,
        family=checkpoint.name,
        parameters=f"{sum(t.numel() for t in checkpoint.tensors.values()) / 1e6:.2g} M",
        image_size=getattr(config, "image_size", None),
        frame_skip=config.frame_skip,
        action_dim=config.action_dim,
        version=jepakit.__version__,
        data=data,
        training=training,
        evaluation=None if evaluation is None else _table(evaluation, checkpoint.name),
        probes=[
            (f"{name}/{key}", _figure(value)) for name, found in (probes or {}).items() for key, value in found.items()
        ],
        trained_on=f"{_host(training)}; {_listed(training['versions'])}" if training else None,
        bundle=bundle,
        limits=_LIMITS,
        licence=licence,
        paper=PAPERS.get(checkpoint.name, "see the documentation"),
    )
    return str(content)


def last_probes(folder: Path, weights: str) -> dict[str, dict[str, Any]]:
    """Return the latest figures of every probe in ``folder`` that measured the weights of this fingerprint."""
    measured = {file.stem: read_probe(file) for file in sorted(folder.glob("*.json"))}
    latest = {name: entries[-1] for name, entries in measured.items() if entries}
    return {name: entry["values"] for name, entry in latest.items() if entry.get("weights") == weights}


def _results(evaluation: Mapping[str, Any], family: str) -> list[Any]:
    """The model's success rate in the form of the Hub's model-index."""
    from huggingface_hub import EvalResult

    tasks, found = evaluation["tasks"], evaluation["policies"][family]
    low, high = found["interval95"]
    return [
        EvalResult(
            task_type="robotics",
            task_name="goal-conditioned planning",
            dataset_type=f"jepakit/{evaluation['environment'].lower()}",
            dataset_name=f"{evaluation['environment']}, goals {describe_goals(tasks)}",
            dataset_split=tasks["split"],
            metric_type="success_rate",
            metric_name=f"success rate, {tasks['count']} tasks, Wilson 95 % {low:.3f} to {high:.3f}",
            metric_value=found["rate"],
        )
    ]


def _table(evaluation: Mapping[str, Any], family: str) -> dict[str, Any]:
    tasks = evaluation["tasks"]
    rows = []
    for name, found in evaluation["policies"].items():
        low, high = found["interval95"]
        timed = found["latency_ms"]
        cells = [
            f"{found['rate']:.1%}",
            f"{low:.1%} – {high:.1%}",
            f"{timed['p50']:.{0 if timed['p50'] >= 10 else 2}f}" if timed else "–",
        ]
        rows.append([name, *cells])
    held_out = evaluation.get("settings", {}).get("held_out")
    caption = (
        f"{tasks['count']} {tasks['split']} tasks (list `{tasks['sha256'][:12]}`), goals {describe_goals(tasks)}, "
        f"budget {evaluation['budget']} steps, one training seed. "
        f"{'' if held_out is None else f'Kept from training: {held_out}. '}"
        f"{_planner(evaluation['policies'][family])}Machine: "
        f"{_host(evaluation)}. Everything else is in `evaluation.json`."
    )
    return {"rows": rows, "caption": caption}


def _planner(found: Mapping[str, Any]) -> str:
    """A sentence on the search, if there was one."""
    settings = found.get("settings", {})
    if not {"solver", "horizon", "execute_blocks"} <= settings.keys():
        return ""
    solver = dict(settings["solver"])
    name = solver.pop("name")
    parts = [
        f"{name} ({_listed(solver)})" if solver else name,
        f"horizon {settings['horizon']} blocks",
        f"{settings['execute_blocks']} of them executed",
    ]
    if settings.get("arrival"):
        parts.append(f"to be at the goal after {settings['arrival']} steps")
    if settings.get("warm_start"):
        parts.append("starting from the last plan")
    if _proposes(settings):
        parts.append("with a controller's proposals")
    return f"Planner: {', '.join(parts)}. "


def planner_title(settings: Mapping[str, Any]) -> str:
    """Name the planner of an evaluated policy in a few words; ``–`` if it had none."""
    solver = settings.get("solver")
    if solver is None:
        return "–"
    name: str = solver["name"]
    if "samples" in solver:
        name += f" {solver['samples']}×{solver['iterations']}"
    if _proposes(settings):
        name += " with a controller's proposals"
    blocks = settings["execute_blocks"]
    return f"{name}, every {'block' if blocks == 1 else f'{blocks} blocks'}"


def _proposes(settings: Mapping[str, Any]) -> bool:
    """Whether a search started also from a controller's plans; a controller alone has settings of proposals, too."""
    return bool(settings.get("proposals")) and settings["solver"]["name"] != "controller"


def _host(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    return f"{machine['system']} {machine['architecture']}, {machine['cpus']} CPUs"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"
