"""How a world model is judged: frozen tasks, the closed loop, baselines, intervals, latency.

Needs NumPy only. Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepakit.lazy import lazy

if TYPE_CHECKING:
    from jepakit.planning.evaluation.latency import Latency as Latency
    from jepakit.planning.evaluation.latency import measure_latency as measure_latency
    from jepakit.planning.evaluation.loop import Environment as Environment
    from jepakit.planning.evaluation.loop import Outcome as Outcome
    from jepakit.planning.evaluation.loop import Recording as Recording
    from jepakit.planning.evaluation.loop import Run as Run
    from jepakit.planning.evaluation.loop import run_policy as run_policy
    from jepakit.planning.evaluation.manifest import Manifest as Manifest
    from jepakit.planning.evaluation.manifest import Task as Task
    from jepakit.planning.evaluation.manifest import draw_tasks as draw_tasks
    from jepakit.planning.evaluation.protocol import EvaluationConfig as EvaluationConfig
    from jepakit.planning.evaluation.protocol import evaluate as evaluate
    from jepakit.planning.evaluation.report import Evaluation as Evaluation
    from jepakit.planning.evaluation.report import PolicyResult as PolicyResult
    from jepakit.planning.evaluation.statistics import paired_test as paired_test
    from jepakit.planning.evaluation.statistics import wilson_interval as wilson_interval

__getattr__, __dir__ = lazy(
    __name__,
    {
        "latency": ("Latency", "measure_latency"),
        "loop": ("Environment", "Outcome", "Recording", "Run", "run_policy"),
        "manifest": ("Manifest", "Task", "draw_tasks"),
        "protocol": ("EvaluationConfig", "evaluate"),
        "report": ("Evaluation", "PolicyResult"),
        "statistics": ("paired_test", "wilson_interval"),
    },
)
__all__ = __dir__()
