"""Where a run's files go."""

from __future__ import annotations

from pathlib import Path

import lightning as L


def run_folder(trainer: L.Trainer) -> Path:
    """Return the run's folder. All processes must ask: the first one tells the others what its logger chose."""
    return Path(trainer.log_dir or trainer.default_root_dir)
