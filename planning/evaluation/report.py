"""The result of an evaluation: numbers with their uncertainty and their provenance, as JSON and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jepakit.planning.evaluation.files import write_json
from jepakit.planning.evaluation.latency import Latency
from jepakit.planning.evaluation.loop import Outcome, Recording
from jepakit.planning.evaluation.manifest import Manifest
from jepakit.planning.evaluation.statistics import wilson_interval
from jepakit.results import describe_goals

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
_HEADER = ("policy", "success", "95 % interval", "median steps", "final distance", "plan p50 / p95 / p99")


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """One policy's outcomes, the latency of its plans (``None`` if it does not plan), and the run's wall time."""

    name: str
    outcomes: tuple[Outcome, ...]
    recordings: tuple[Recording, ...] = ()
    latency: Latency | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def successes(self) -> int:
        """Count the tasks solved."""
        return sum(outcome.success for outcome in self.outcomes)

    @property
    def rate(self) -> float:
        """Return the share of tasks solved."""
        return self.successes / len(self.outcomes)

    @property
    def interval95(self) -> tuple[float, float]:
        """Return the Wilson interval of the rate."""
        return wilson_interval(self.successes, len(self.outcomes))

    @property
    def median_steps(self) -> float | None:
        """Return the median steps to success over the solved tasks; ``None`` without any."""
        steps = [outcome.steps for outcome in self.outcomes if outcome.steps is not None]
        return float(np.median(steps)) if steps else None

    @property
    def mean_final_distance(self) -> float:
        """Average the last distance to the goal over all tasks, in units of the success criterion."""
        return float(np.mean([outcome.final_distance for outcome in self.outcomes]))

    def curve(self, budget: int) -> list[float]:
        """Return the share of tasks solved after 0, 1, … ``budget`` steps."""
        steps = [outcome.steps for outcome in self.outcomes if outcome.steps is not None]
        return [sum(step <= now for step in steps) / len(self.outcomes) for now in range(budget + 1)]

    def plain(self, budget: int) -> dict[str, Any]:
        """Return JSON-ready values; recordings are left out."""
        return {
            "tasks": len(self.outcomes),
            "successes": self.successes,
            "rate": self.rate,
            "interval95": list(self.interval95),
            "median_steps": self.median_steps,
            "mean_final_distance": self.mean_final_distance,
            "latency_ms": dataclasses.asdict(self.latency) if self.latency else None,
            "seconds": self.seconds,
            "settings": dict(self.settings),
            "curve": self.curve(budget),
            "outcomes": [dataclasses.asdict(outcome) for outcome in self.outcomes],
        }

    def row(self) -> tuple[str, ...]:
        """Format the cells of a table."""
        low, high = self.interval95
        plan = self.latency
        return (
            self.name,
            f"{self.rate:.1%}",
            f"{low:.1%} – {high:.1%}",
            "–" if self.median_steps is None else f"{self.median_steps:g}",
            f"{self.mean_final_distance:.2f}",
            f"{plan.p50:.1f} / {plan.p95:.1f} / {plan.p99:.1f} ms" if plan else "–",
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Several policies on one task list in one run, and everything needed to run it again.

    Args:
        manifest: the task list.
        budget: raw actions allowed per task.
        seed: seed of the tasks' randomness.
        policies: the results, in the order they were run.
        settings: what else defines the run (model, checkpoint, command), as JSON-ready values.
        versions: versions of the packages involved.
        machine: what it ran on.
        commit: commit of this code, if it is a checkout.

    """

    manifest: Manifest
    budget: int
    seed: int
    policies: tuple[PolicyResult, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, str | int]
    commit: str | None

    def __getitem__(self, name: str) -> PolicyResult:
        for policy in self.policies:
            if policy.name == name:
                return policy
        raise KeyError(f"policy: found {name!r}, expected one of {[policy.name for policy in self.policies]}")

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "schema": SCHEMA,
            "environment": self.manifest.environment,
            "tasks": self._tasks(),
            "budget": self.budget,
            "seed": self.seed,
            "policies": {policy.name: policy.plain(self.budget) for policy in self.policies},
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "machine": dict(self.machine),
            "commit": self.commit,
        }

    def _tasks(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "sha256": manifest.sha256,
            "data_fingerprint": manifest.data_fingerprint,
            "split": manifest.split,
            "offset": manifest.offset,
            "goals": "drawn" if manifest.drawn else "episode",
            "seed": manifest.seed,
            "count": len(manifest.tasks),
            "excluded": manifest.excluded,
        }

    def save(self, path: Path) -> None:
        """Write the evaluation as JSON, atomically."""
        write_json(path, self.plain())

    def caption(self) -> str:
        """Say in one line what the numbers are about."""
        manifest = self.manifest
        parts = [
            f"{manifest.environment}: {len(manifest.tasks)} tasks from {manifest.split} episodes "
            f"(list {manifest.sha256[:12]}, data {manifest.data_fingerprint[:12]})",
            f"goals {describe_goals(self._tasks())}, budget {self.budget}",
            f"{manifest.excluded} solved starts excluded",
        ]
        if "held_out" in self.settings:
            parts.append(f"kept from training: {self.settings['held_out']}")
        for policy in self.policies:
            if "history" in policy.settings:
                parts.append(f"{policy.name} looks back on {_context(policy.settings)}")
        return "; ".join(parts) + "."

    def markdown(self) -> str:
        """Format the table and its caption in Markdown."""
        rows = [_HEADER, ("---",) * len(_HEADER), *(policy.row() for policy in self.policies)]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n{self.caption()}\n"

    def rich_table(self) -> Table:
        """Build the table and its caption for a terminal; needs ``rich`` (extra ``train``)."""
        from rich.table import Table

        table = Table(*_HEADER, caption=self.caption(), caption_justify="left")
        for policy in self.policies:
            table.add_row(*policy.row())
        return table


def _context(settings: Mapping[str, Any]) -> str:
    used, trained = settings["history"], settings["trained_history"]
    frames = f"{used} frame{'s' if used > 1 else ''}"
    return f"{frames} as trained" if used == trained else f"{frames} (asked for; trained with {trained})"
