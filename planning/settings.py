"""How to plan, as plain values: one section of a configuration file, and of an exported model's manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from jepakit.plain import parse
from jepakit.planning.backend import Backend, PlannerSpec
from jepakit.planning.cem import CEM, CEMConfig
from jepakit.planning.follow import Follow
from jepakit.planning.gradient import Gradient, GradientConfig
from jepakit.planning.icem import ICEM, ICEMConfig
from jepakit.planning.mpc import MPCConfig, MPCPolicy, ProposalConfig
from jepakit.planning.mppi import MPPI, MPPIConfig
from jepakit.planning.objective import GoalDistance, Objective, Steps, WeightedSum, check_steps
from jepakit.planning.penalties import ActionPenalty, SmoothnessPenalty, Units
from jepakit.planning.planner import Planner
from jepakit.planning.random_shooting import RandomShooting, RandomShootingConfig
from jepakit.planning.solver import Solver
from jepakit.planning.targets import KeepOut, KeepOutConfig, ReachTarget, ReachTargetConfig

P = TypeVar("P", bound="PlannerConfig")
#: What an objective may ask beside the goal.
_JUDGED = ("action_penalty", "smoothness_penalty", "reach", "keep_out")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What a plan costs: a weighted sum of the terms whose weight is not 0.

    Args:
        steps: which steps of a plan count for ``goal`` and ``reach``.
        goal: weight of the model's distance to the goal picture; with 0, plans need no picture.
        action_penalty: weight of the mean squared action.
        action_units: whether that is of ``raw`` or ``standardised`` actions.
        smoothness_penalty: weight of the mean squared difference of consecutive raw actions.
        reach: values to bring quantities to that the backend reads off the latents.
        keep_out: regions in such quantities to stay out of.

    """

    steps: Steps = "last"
    goal: float = 1.0
    action_penalty: float = 0.0
    action_units: Units = "raw"
    smoothness_penalty: float = 0.0
    reach: ReachTargetConfig | None = None
    keep_out: tuple[KeepOutConfig, ...] = ()

    def __post_init__(self) -> None:
        check_steps("ObjectiveConfig", self.steps)
        for name in ("goal", "action_penalty", "smoothness_penalty"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"ObjectiveConfig.{name}: found {value}, expected a weight of 0 or more")
        if not self.goal and self.reach is None:
            raise ValueError("ObjectiveConfig.goal: found 0 without reach, expected a goal picture or values to reach")

    def objective(self, spec: PlannerSpec) -> Objective:
        """Build the objective for a world model; ``ValueError`` for quantities that it does not read off."""
        terms: list[tuple[float, Objective]] = [
            (self.goal, GoalDistance(steps=self.steps)),
            (self.action_penalty, ActionPenalty(spec, units=self.action_units)),
            (self.smoothness_penalty, SmoothnessPenalty(spec.action_dim)),
        ]
        if self.reach is not None:
            terms.append((self.reach.weight, ReachTarget(self.reach, spec.readout, steps=self.steps)))
        terms += [(region.weight, KeepOut(region, spec.readout)) for region in self.keep_out]
        used = [(weight, term) for weight, term in terms if weight]
        return used[0][1] if len(used) == 1 else WeightedSum(used)


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """How to plan: the search (``solver`` and its section), what it minimises and when to re-plan.

    Args:
        solver: which search; its settings are in the section of that name, the others' sections are ignored.
        cem: cross-entropy method.
        icem: improved cross-entropy method, for small budgets.
        mppi: model-predictive path integral control.
        random_shooting: the best of random plans.
        gradient: Adam through the model; with PyTorch only.
        controller: how a trained controller is asked; the solver of that name does what it says, without a search.
        proposals: start every search also from what the controller proposes.
        objective: what a plan costs.
        mpc: horizon, and when to plan again.
        bounded: keep candidates within the environment's action bounds, which LeWM's paper does not.

    """

    solver: Literal["cem", "icem", "mppi", "random_shooting", "gradient", "controller"] = "cem"
    cem: CEMConfig = field(default_factory=CEMConfig)
    icem: ICEMConfig = field(default_factory=ICEMConfig)
    mppi: MPPIConfig = field(default_factory=MPPIConfig)
    random_shooting: RandomShootingConfig = field(default_factory=RandomShootingConfig)
    gradient: GradientConfig = field(default_factory=GradientConfig)
    controller: ProposalConfig = field(default_factory=ProposalConfig)
    proposals: bool = False
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    mpc: MPCConfig = field(default_factory=MPCConfig)
    bounded: bool = False

    def __post_init__(self) -> None:
        if self.solver not in self._solvers():
            raise ValueError(f"PlannerConfig.solver: found {self.solver!r}, expected one of {list(self._solvers())}")
        unheard = [name for name in _JUDGED if getattr(self.objective, name)]
        if self.solver == "controller" and unheard:
            raise ValueError(
                f"PlannerConfig.objective: found {', '.join(unheard)} with the solver 'controller', which judges no "
                "plan, expected the goal alone; use a search with proposals: true"
            )

    def planner(self, backend: Backend) -> Planner:
        """Build the planner for a world model.

        Raises ``ValueError`` where objective or bounds ask for what the model does not have, ``TypeError`` for a
        solver that follows gradients on a backend without them.
        """
        solver, objective = self._solvers()[self.solver], self.objective.objective(backend.spec)
        return Planner(backend, solver, objective, bounded=self.bounded)

    def policy(self, backend: Backend) -> MPCPolicy:
        """Build the policy that plans with a world model and re-plans as ``mpc`` says."""
        proposals = self.controller if self.asks_controller else None
        return MPCPolicy(self.planner(backend), self.mpc, proposals=proposals)

    @property
    def asks_controller(self) -> bool:
        """Whether plans come, or start, from a controller's."""
        return self.proposals or self.solver == "controller"

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values; :meth:`parse` reads them. A subclass's own fields are left out."""
        values = asdict(self)
        return {item.name: values[item.name] for item in fields(PlannerConfig)}

    @classmethod
    def parse(cls: type[P], values: Mapping[str, Any], *, where: str) -> P:
        """Read settings from plain values; ``where`` names their source in error messages.

        Raises ``ValueError`` for unknown keys, values of another type, and whatever a section refuses.
        """
        return parse(cls, values, where=where)

    def _solvers(self) -> dict[str, Solver]:
        return {
            "cem": CEM(self.cem),
            "icem": ICEM(self.icem),
            "mppi": MPPI(self.mppi),
            "random_shooting": RandomShooting(self.random_shooting),
            "gradient": Gradient(self.gradient),
            "controller": Follow(),
        }
