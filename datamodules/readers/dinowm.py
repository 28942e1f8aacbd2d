"""DINO-WM's Push-T folder: padded tensors of all episodes beside one mp4 per episode.

``states.pth`` (E, L, 5) and ``velocities.pth`` (E, L, 2) in pixels, ``rel_actions.pth`` (E, L, 2) in pixels relative to
the agent (divided by 100 here: the environment multiplies by 100), ``seq_lengths.pkl`` (E,), ``obses/episode_000.mp4``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.readers.base import BadEpisode, Reader, Rows
from jepakit.datamodules.readers.location import Location
from jepakit.datamodules.readers.pickles import load_integers
from jepakit.datamodules.readers.video import Videos, stamp_of
from jepakit.datamodules.store import Array, Column
from jepakit.untrusted import load_tensors

_ACTION_SCALE = 100.0  # pixels per unit of action
_PROPRIO = (0, 1, 5, 6)  # agent position and velocity within the 7 state entries


class DINOWMReader(Reader):
    """Episodes of a DINO-WM folder with the columns of the LeWM release.

    ``state`` (7): agent xy, block xy, block angle, agent velocity xy; ``proprio`` (4): agent position and velocity.
    Raises ``ValueError`` naming the file that is missing, no plain tensor, or of another shape than the others.
    """

    kind = "dinowm"

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        lengths = load_integers(location / "seq_lengths.pkl")
        states = self._tensor("states.pth", len(lengths))
        velocities = self._tensor("velocities.pth", len(lengths))
        actions = self._tensor("rel_actions.pth", len(lengths))
        longest = min(states.shape[1], velocities.shape[1], actions.shape[1])
        if (lengths < 0).any() or (len(lengths) and int(lengths.max()) > longest):
            raise ValueError(
                f"{location}/seq_lengths.pkl: found lengths up to {lengths.max()}, the tensors hold {longest}"
            )
        state = np.concatenate([states[:, :longest], velocities[:, :longest]], axis=2)
        self._tables = {"action": actions / np.float32(_ACTION_SCALE), "state": state, "proprio": state[..., _PROPRIO]}
        self._videos = Videos()
        columns = {name: Column(dtype="float32", shape=table.shape[2:]) for name, table in self._tables.items()}
        columns["pixels"] = Column(dtype="uint8", shape=self._frame_shape(lengths))
        self._describe(columns, lengths, np.cumsum(lengths) - lengths)

    def _tensor(self, name: str, episodes: int) -> NDArray[np.float32]:
        import torch

        file = self.location / name
        if not file.exists():
            raise ValueError(f"{file}: missing; a DINO-WM folder holds states.pth, velocities.pth and rel_actions.pth")
        loaded = load_tensors(file.read_bytes(), where=file)
        if not isinstance(loaded, torch.Tensor) or loaded.ndim != 3 or len(loaded) != episodes:
            found = tuple(loaded.shape) if isinstance(loaded, torch.Tensor) else type(loaded).__name__
            raise ValueError(
                f"{file}: found {found}, expected a tensor ({episodes}, steps, width) as in seq_lengths.pkl"
            )
        return loaded.to(torch.float32).numpy()

    def _video(self, episode: int) -> Location:
        return self.location / f"obses/episode_{episode:03d}.mp4"

    def _frame_shape(self, lengths: Rows) -> tuple[int, int, int]:
        """Shape of the frames, from the first video that opens."""
        problem: ValueError | None = None
        for episode in np.flatnonzero(lengths)[:10]:
            try:
                return self._videos.get(self._video(int(episode))).shape
            except ValueError as error:
                problem = problem or error
        raise problem or ValueError(f"{self.path}: all episodes are empty")

    def _content(self, column: str, row: int) -> bytes:
        return stamp_of(self._video(self.episode_of(row))) if column == "pixels" else super()._content(column, row)

    def _read(self, column: str, rows: Rows, out: Array) -> None:
        for episode, steps, places in self.by_episode(rows):
            if column != "pixels":
                out[places] = self._tables[column][episode, steps]
            else:
                out[places] = self._frames(episode, steps)

    def _frames(self, episode: int, steps: Rows) -> NDArray[np.uint8]:
        frames = np.empty((len(steps), *self.columns["pixels"].shape), dtype=np.uint8)
        try:
            video = self._videos.get(self._video(episode))
            video.read(video.begin + steps / (video.rate or 1.0), frames)
        except ValueError as error:
            raise BadEpisode(self.path, episode, str(error)) from error
        return frames
