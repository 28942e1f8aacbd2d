"""The world models: pure modules, their losses, one Lightning module, loading and saving. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepakit.lazy import lazy

if TYPE_CHECKING:
    from jepakit.zoo.base import WorldModel as WorldModel
    from jepakit.zoo.base import WorldModelConfig as WorldModelConfig
    from jepakit.zoo.cjepa.config import CJEPAConfig as CJEPAConfig
    from jepakit.zoo.cjepa.model import CJEPAModel as CJEPAModel
    from jepakit.zoo.cjepa.module import CJEPA as CJEPA
    from jepakit.zoo.controller.config import ControllerConfig as ControllerConfig
    from jepakit.zoo.controller.model import ControllerModel as ControllerModel
    from jepakit.zoo.controller.module import Controller as Controller
    from jepakit.zoo.dinowm.config import DINOWMConfig as DINOWMConfig
    from jepakit.zoo.dinowm.model import DINOWMModel as DINOWMModel
    from jepakit.zoo.dinowm.module import DINOWM as DINOWM
    from jepakit.zoo.distance.config import DistanceConfig as DistanceConfig
    from jepakit.zoo.distance.model import DistanceModel as DistanceModel
    from jepakit.zoo.distance.module import Distance as Distance
    from jepakit.zoo.lewm.config import LeWMConfig as LeWMConfig
    from jepakit.zoo.lewm.model import LeWMModel as LeWMModel
    from jepakit.zoo.lewm.module import LeWM as LeWM
    from jepakit.zoo.macro.config import MacroConfig as MacroConfig
    from jepakit.zoo.macro.model import MacroModel as MacroModel
    from jepakit.zoo.macro.module import Macro as Macro
    from jepakit.zoo.module import OptimizerConfig as OptimizerConfig
    from jepakit.zoo.module import WorldModelModule as WorldModelModule
    from jepakit.zoo.pldm.config import PLDMConfig as PLDMConfig
    from jepakit.zoo.pldm.model import PLDMModel as PLDMModel
    from jepakit.zoo.pldm.module import PLDM as PLDM
    from jepakit.zoo.trainable import Losses as Losses
    from jepakit.zoo.trainable import Statistics as Statistics
    from jepakit.zoo.vjepa.config import VJEPAConfig as VJEPAConfig
    from jepakit.zoo.vjepa.model import VJEPAModel as VJEPAModel
    from jepakit.zoo.vjepa.module import VJEPA as VJEPA
    from jepakit.zoo.weights import from_pretrained as from_pretrained
    from jepakit.zoo.weights import load_model as load_model
    from jepakit.zoo.weights import save_pretrained as save_pretrained

__getattr__, __dir__ = lazy(
    __name__,
    {
        "base": ("WorldModel", "WorldModelConfig"),
        "dinowm.config": ("DINOWMConfig",),
        "dinowm.model": ("DINOWMModel",),
        "dinowm.module": ("DINOWM",),
        "cjepa.config": ("CJEPAConfig",),
        "cjepa.model": ("CJEPAModel",),
        "cjepa.module": ("CJEPA",),
        "controller.config": ("ControllerConfig",),
        "controller.model": ("ControllerModel",),
        "controller.module": ("Controller",),
        "macro.config": ("MacroConfig",),
        "macro.model": ("MacroModel",),
        "macro.module": ("Macro",),
        "distance.config": ("DistanceConfig",),
        "distance.model": ("DistanceModel",),
        "distance.module": ("Distance",),
        "lewm.config": ("LeWMConfig",),
        "lewm.model": ("LeWMModel",),
        "lewm.module": ("LeWM",),
        "module": ("OptimizerConfig", "WorldModelModule"),
        "pldm.config": ("PLDMConfig",),
        "pldm.model": ("PLDMModel",),
        "pldm.module": ("PLDM",),
        "trainable": ("Losses", "Statistics"),
        "vjepa.config": ("VJEPAConfig",),
        "vjepa.model": ("VJEPAModel",),
        "vjepa.module": ("VJEPA",),
        "weights": ("from_pretrained", "load_model", "save_pretrained"),
    },
)
__all__ = __dir__()
