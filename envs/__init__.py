"""Gymnasium environments with goal states, and the scripted policies that collect data in them.

Importing this package registers ``jepakit/TwoRoom-v0`` and ``jepakit/PushT-v0``.
"""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {
    "jepakit/TwoRoom-v0": "jepakit.envs.tworoom:TwoRoom",
    "jepakit/PushT-v0": "jepakit.envs.pusht:PushT",
}

for _name, _entry_point in ENVIRONMENTS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(id=_name, entry_point=_entry_point)
