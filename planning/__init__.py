"""Planning in latent space: solvers, model-predictive control, policies, closed-loop evaluation.

Needs NumPy only. Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepakit.lazy import lazy

if TYPE_CHECKING:
    from jepakit.planning.backend import Backend as Backend
    from jepakit.planning.backend import DifferentiableBackend as DifferentiableBackend
    from jepakit.planning.backend import ImaginingBackend as ImaginingBackend
    from jepakit.planning.backend import PlannerSpec as PlannerSpec
    from jepakit.planning.backend import ProposingBackend as ProposingBackend
    from jepakit.planning.backend import Scores as Scores
    from jepakit.planning.cem import CEM as CEM
    from jepakit.planning.cem import CEMConfig as CEMConfig
    from jepakit.planning.control import Command as Command
    from jepakit.planning.control import ControlConfig as ControlConfig
    from jepakit.planning.control import ControlLoop as ControlLoop
    from jepakit.planning.control import ControlSummary as ControlSummary
    from jepakit.planning.control import Sight as Sight
    from jepakit.planning.follow import Follow as Follow
    from jepakit.planning.gradient import Gradient as Gradient
    from jepakit.planning.gradient import GradientConfig as GradientConfig
    from jepakit.planning.icem import ICEM as ICEM
    from jepakit.planning.icem import ICEMConfig as ICEMConfig
    from jepakit.planning.mpc import MPCConfig as MPCConfig
    from jepakit.planning.mpc import MPCPolicy as MPCPolicy
    from jepakit.planning.mpc import ProposalConfig as ProposalConfig
    from jepakit.planning.mppi import MPPI as MPPI
    from jepakit.planning.mppi import MPPIConfig as MPPIConfig
    from jepakit.planning.objective import GoalDistance as GoalDistance
    from jepakit.planning.objective import Objective as Objective
    from jepakit.planning.objective import Slope as Slope
    from jepakit.planning.objective import WeightedSum as WeightedSum
    from jepakit.planning.penalties import ActionPenalty as ActionPenalty
    from jepakit.planning.penalties import SmoothnessPenalty as SmoothnessPenalty
    from jepakit.planning.planner import Observation as Observation
    from jepakit.planning.planner import Plan as Plan
    from jepakit.planning.planner import Planner as Planner
    from jepakit.planning.policies import Assignment as Assignment
    from jepakit.planning.policies import Policy as Policy
    from jepakit.planning.policies import RandomPolicy as RandomPolicy
    from jepakit.planning.policies import Scripted as Scripted
    from jepakit.planning.policies import StayPolicy as StayPolicy
    from jepakit.planning.random_shooting import RandomShooting as RandomShooting
    from jepakit.planning.random_shooting import RandomShootingConfig as RandomShootingConfig
    from jepakit.planning.settings import ObjectiveConfig as ObjectiveConfig
    from jepakit.planning.settings import PlannerConfig as PlannerConfig
    from jepakit.planning.solver import SearchSpace as SearchSpace
    from jepakit.planning.solver import Solution as Solution
    from jepakit.planning.solver import Solver as Solver
    from jepakit.planning.targets import KeepOut as KeepOut
    from jepakit.planning.targets import KeepOutConfig as KeepOutConfig
    from jepakit.planning.targets import ReachTarget as ReachTarget
    from jepakit.planning.targets import ReachTargetConfig as ReachTargetConfig
    from jepakit.planning.two_level import TwoLevelConfig as TwoLevelConfig
    from jepakit.planning.two_level import TwoLevelPolicy as TwoLevelPolicy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "backend": (
            "Backend",
            "DifferentiableBackend",
            "ImaginingBackend",
            "PlannerSpec",
            "ProposingBackend",
            "Scores",
        ),
        "cem": ("CEM", "CEMConfig"),
        "control": ("Command", "ControlConfig", "ControlLoop", "ControlSummary", "Sight"),
        "follow": ("Follow",),
        "gradient": ("Gradient", "GradientConfig"),
        "icem": ("ICEM", "ICEMConfig"),
        "mpc": ("MPCConfig", "MPCPolicy", "ProposalConfig"),
        "mppi": ("MPPI", "MPPIConfig"),
        "objective": ("GoalDistance", "Objective", "Slope", "WeightedSum"),
        "penalties": ("ActionPenalty", "SmoothnessPenalty"),
        "planner": ("Observation", "Plan", "Planner"),
        "policies": ("Assignment", "Policy", "RandomPolicy", "Scripted", "StayPolicy"),
        "random_shooting": ("RandomShooting", "RandomShootingConfig"),
        "settings": ("ObjectiveConfig", "PlannerConfig"),
        "solver": ("SearchSpace", "Solution", "Solver"),
        "targets": ("KeepOut", "KeepOutConfig", "ReachTarget", "ReachTargetConfig"),
        "two_level": ("TwoLevelConfig", "TwoLevelPolicy"),
    },
)
__all__ = __dir__()
