"""The model card of a bundle: what it is, how to use it, what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jepakit.planning.backend import PlannerSpec

_CARD = """---
library_name: jepakit
pipeline_tag: robotics
tags: [world-model, jepa, model-predictive-control, onnx]
---

# {family}, exported for planning

ONNX graphs of a {family} world model: frames of {side} × {side} pixels in, action blocks of {skip} × {action} numbers
scored over up to {horizon} blocks, matrix products in {precision}, opset {opset}. Written by jepakit {version}.
Licence of the weights: {licence}.

```python
from jepakit.export.runtime import open_backend

backend = open_backend("path/to/this/folder", engine="onnx")  # needs NumPy, PyYAML, onnxruntime; not PyTorch
```

## Verification at export

```json
{figures}
```

It compares the graphs with the PyTorch model. Success rates are not part of an export: not evaluated.
"""


def model_card(values: Mapping[str, Any], spec: PlannerSpec) -> str:
    """Return the card of a bundle with these fields of its manifest."""
    return _CARD.format(
        family=values["model"]["family"],
        side=spec.image_size,
        skip=spec.frame_skip,
        action=spec.action_dim,
        horizon=spec.horizon,
        precision=values["precision"],
        opset=values["opset"],
        version=values["jepakit"],
        licence=values["licence"],
        figures=json.dumps(values["verification"], indent=1),
    )
