"""Gymnasium environments with goal states, and the scripted policies that collect data in them.

Importing this package registers those of ``ENVIRONMENTS``.
"""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {
    "jepakit/TwoRoom-v0": "jepakit.envs.tworoom:TwoRoom",
    "jepakit/PushT-v0": "jepakit.envs.pusht:PushT",
    "jepakit/Collisions-v0": "jepakit.envs.collisions:Collisions",
    "jepakit/Gravity-v0": "jepakit.envs.gravity:Gravity",
    "jepakit/Reacher-v0": "jepakit.envs.reacher:Reacher",
    "jepakit/Cube-v0": "jepakit.envs.cube:Cube",
}

for _name, _entry_point in ENVIRONMENTS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(id=_name, entry_point=_entry_point)
