"""Lightning callbacks: they read a module's named outputs and never touch its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepakit.lazy import lazy

if TYPE_CHECKING:
    from jepakit.callbacks.attention import AttentionProbe as AttentionProbe
    from jepakit.callbacks.collapse import CollapseMonitor as CollapseMonitor
    from jepakit.callbacks.compile import Compile as Compile
    from jepakit.callbacks.counterfactual import CounterfactualProbe as CounterfactualProbe
    from jepakit.callbacks.decoder import DecoderProbe as DecoderProbe
    from jepakit.callbacks.feature_cache import FeatureCache as FeatureCache
    from jepakit.callbacks.fidelity import FidelityProbe as FidelityProbe
    from jepakit.callbacks.graceful_stop import GracefulStop as GracefulStop
    from jepakit.callbacks.latent_map import LatentMap as LatentMap
    from jepakit.callbacks.numerical_guard import NumericalGuard as NumericalGuard
    from jepakit.callbacks.object_discovery import ObjectDiscovery as ObjectDiscovery
    from jepakit.callbacks.open_loop import OpenLoopError as OpenLoopError
    from jepakit.callbacks.planning import PlanningProbe as PlanningProbe
    from jepakit.callbacks.probe import Probe as Probe
    from jepakit.callbacks.publish import Publish as Publish
    from jepakit.callbacks.quantities import LinearProbe as LinearProbe
    from jepakit.callbacks.quantities import MLPProbe as MLPProbe
    from jepakit.callbacks.run_estimate import RunEstimate as RunEstimate
    from jepakit.callbacks.scenes import PhysicsProbe as PhysicsProbe
    from jepakit.callbacks.straightness import StraightnessMonitor as StraightnessMonitor
    from jepakit.callbacks.surprise import SurpriseProbe as SurpriseProbe

__getattr__, __dir__ = lazy(
    __name__,
    {
        "attention": ("AttentionProbe",),
        "collapse": ("CollapseMonitor",),
        "compile": ("Compile",),
        "counterfactual": ("CounterfactualProbe",),
        "decoder": ("DecoderProbe",),
        "feature_cache": ("FeatureCache",),
        "fidelity": ("FidelityProbe",),
        "graceful_stop": ("GracefulStop",),
        "latent_map": ("LatentMap",),
        "numerical_guard": ("NumericalGuard",),
        "object_discovery": ("ObjectDiscovery",),
        "open_loop": ("OpenLoopError",),
        "planning": ("PlanningProbe",),
        "probe": ("Probe",),
        "publish": ("Publish",),
        "quantities": ("LinearProbe", "MLPProbe"),
        "run_estimate": ("RunEstimate",),
        "straightness": ("StraightnessMonitor",),
        "scenes": ("PhysicsProbe",),
        "surprise": ("SurpriseProbe",),
    },
)
__all__ = __dir__()
