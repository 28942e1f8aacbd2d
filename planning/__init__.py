"""Planning in latent space: solvers, model-predictive control, policies, closed-loop evaluation.

Needs NumPy only. Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepakit.lazy import lazy

if TYPE_CHECKING:
    from jepakit.planning.cem import CEM as CEM
    from jepakit.planning.cem import CEMConfig as CEMConfig
    from jepakit.planning.mpc import MPCConfig as MPCConfig
    from jepakit.planning.mpc import MPCPolicy as MPCPolicy
    from jepakit.planning.objective import GoalDistance as GoalDistance
    from jepakit.planning.objective import Objective as Objective
    from jepakit.planning.planner import Backend as Backend
    from jepakit.planning.planner import Observation as Observation
    from jepakit.planning.planner import Plan as Plan
    from jepakit.planning.planner import Planner as Planner
    from jepakit.planning.planner import PlannerSpec as PlannerSpec
    from jepakit.planning.policies import Assignment as Assignment
    from jepakit.planning.policies import Policy as Policy
    from jepakit.planning.policies import RandomPolicy as RandomPolicy
    from jepakit.planning.policies import Scripted as Scripted
    from jepakit.planning.policies import StayPolicy as StayPolicy
    from jepakit.planning.solver import SearchSpace as SearchSpace
    from jepakit.planning.solver import Solution as Solution
    from jepakit.planning.solver import Solver as Solver

__getattr__, __dir__ = lazy(
    __name__,
    {
        "cem": ("CEM", "CEMConfig"),
        "mpc": ("MPCConfig", "MPCPolicy"),
        "objective": ("GoalDistance", "Objective"),
        "planner": ("Backend", "Observation", "Plan", "Planner", "PlannerSpec"),
        "policies": ("Assignment", "Policy", "RandomPolicy", "Scripted", "StayPolicy"),
        "solver": ("SearchSpace", "Solution", "Solver"),
    },
)
__all__ = __dir__()
