"""What the MuJoCo environments share: a model with its camera, and a simulator whose state is (qpos, qvel).

Q positions, V velocities, S side of the square picture. Importing this module chooses how MuJoCo renders where the
user has not (see :func:`choose_backend`); ``mujoco`` reads that choice once, while it is imported.
"""

from __future__ import annotations

import atexit
import copy
import ctypes.util
import os
import sys
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.base import Frame, GoalEnv, State

_BACKEND = "MUJOCO_GL"
_FULL_DETAIL = 224  # the public data's pictures, and larger ones, are drawn exactly as the model says
_SHADOW_MAP = 1024  # entries along each side; with 512, walls shade themselves at some sizes


def choose_backend(environ: Mapping[str, str]) -> str | None:
    """Name the headless renderer to use, or ``None`` to leave MuJoCo's own choice (a window system) alone.

    A set ``MUJOCO_GL`` and a display are the user's decision. Elsewhere EGL comes first, because it finds a GPU where
    there is one; OSMesa draws on the CPU.
    """
    if environ.get(_BACKEND) or environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") or sys.platform != "linux":
        return None
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            return backend
    return None


# The only use of an environment variable here: it is MuJoCo's interface for this, and it is read at the next import.
if "mujoco" not in sys.modules and (_chosen := choose_backend(os.environ)) is not None:
    os.environ[_BACKEND] = _chosen

try:
    import mujoco  # after the choice above
except ModuleNotFoundError as error:
    raise ImportError("Reacher and Cube need MuJoCo: pip install 'jepakit[mujoco]'") from error

__all__ = ["MujocoEnv", "Scene", "choose_backend", "coarser", "mujoco"]


class Scene:
    """A compiled model, the camera that looks at it, and one renderer per picture size.

    Environments of one process share a scene: the model never changes, and a renderer holds the model's meshes,
    textures and shadow map, some tens of MB. ``view`` is the width in metres that a picture shows; with it, pictures
    smaller than the public data's are drawn from a coarser copy of the model (see :func:`coarser`).
    """

    def __init__(self, model: mujoco.MjModel, *, camera: str, view: float) -> None:
        self.model = model
        self._camera = camera
        self._view = view
        self._renderers: dict[int, mujoco.Renderer] = {}

    def close(self) -> None:
        """Free the renderers; the next picture makes a new one."""
        while self._renderers:
            self._renderers.popitem()[1].close()

    def draw(self, data: mujoco.MjData, out: Frame) -> None:
        """Draw ``data``, whose kinematics are up to date, into ``out`` ``(S, S, 3)``."""
        renderer = self._renderer(out.shape[0])
        renderer.update_scene(data, camera=self._camera)
        renderer.render(out=out)

    def _renderer(self, size: int) -> mujoco.Renderer:
        if size not in self._renderers:
            model = copy.copy(self.model) if size >= _FULL_DETAIL else coarser(self.model, self._view / size)
            model.vis.global_.offwidth = model.vis.global_.offheight = size
            try:
                self._renderers[size] = mujoco.Renderer(model, height=size, width=size)
            except Exception as error:  # each backend raises its own kind
                raise RuntimeError(
                    f"MuJoCo cannot render ({_BACKEND}={os.environ.get(_BACKEND, '')!r}: {error}); expected a display, "
                    "EGL or OSMesa. On Debian and Ubuntu: apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri. "
                    f"If mujoco was imported before jepakit.envs, set {_BACKEND}=egl"
                ) from error
            # Before the driver is shut down, and so registered after MuJoCo has loaded it.
            atexit.register(self.close)
        return self._renderers[size]


def coarser(model: mujoco.MjModel, pixel: float) -> mujoco.MjModel:
    """Copy a model for small pictures: ``pixel`` is the width in metres that a pixel shows.

    A CPU spends most of a small picture on triangles and on the shadow map. So corners within a quarter of a pixel
    become one, triangles that lose their area go, and the map shrinks. Vertices, which collisions use, stay.
    """
    small = copy.copy(model)
    small.vis.quality.shadowsize = min(int(model.vis.quality.shadowsize), _SHADOW_MAP)
    for mesh in range(model.nmesh):
        points = slice(int(model.mesh_vertadr[mesh]), int(model.mesh_vertadr[mesh] + model.mesh_vertnum[mesh]))
        faces = slice(int(model.mesh_faceadr[mesh]), int(model.mesh_faceadr[mesh] + model.mesh_facenum[mesh]))
        cells = np.round(model.mesh_vert[points] * (4.0 / pixel)).astype(np.int64)
        _, first, member_of = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        corners = first[member_of.ravel()][model.mesh_face[faces]]
        ordered = np.sort(corners, axis=1)
        solid = np.flatnonzero((ordered[:, 0] != ordered[:, 1]) & (ordered[:, 1] != ordered[:, 2]))
        kept = solid[np.sort(np.unique(ordered[solid], axis=0, return_index=True)[1])]
        fewer = slice(faces.start, faces.start + len(kept))
        small.mesh_face[fewer] = corners[kept]
        small.mesh_facenormal[fewer] = model.mesh_facenormal[faces][kept]
        small.mesh_facetexcoord[fewer] = model.mesh_facetexcoord[faces][kept]
        small.mesh_facenum[mesh] = len(kept)
    return small


class MujocoEnv(GoalEnv):
    """A goal environment whose state ``(Q + V,)`` is MuJoCo's qpos and qvel.

    Nothing else carries over from one action to the next: controls are computed anew, the solver's warm start is
    cleared, time plays no part, and the models have neither activations nor moving mocap bodies. So a state and
    actions determine what follows, bit for bit.
    """

    #: Simulator steps per action.
    substeps: ClassVar[int]

    def __init__(self, scene: Scene, *, image_size: int, stop_on_success: bool, render_mode: str) -> None:
        super().__init__(image_size=image_size, stop_on_success=stop_on_success, render_mode=render_mode)
        assert scene.model.na == 0
        assert scene.model.nq + scene.model.nv == len(self.state_names)
        self._scene = scene
        self._data = mujoco.MjData(scene.model)
        self._other = mujoco.MjData(scene.model)  # poses for pictures of other states

    @property
    def state(self) -> State:
        """Positions and velocities, ``(Q + V,)``."""
        return np.concatenate([self._data.qpos, self._data.qvel])

    def set_state(self, state: NDArray[Any]) -> None:
        """Put the simulator into ``state`` ``(Q + V,)``."""
        self._place(self._data, self.check_state(state))

    @abstractmethod
    def control(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """Translate an action into the model's controls; the kinematics of ``self._data`` are up to date."""

    def advance(self, action: NDArray[Any]) -> None:
        """Apply one action for ``substeps`` simulator steps; raises ``ValueError`` for a bad action."""
        values = np.asarray(action, dtype=np.float64)
        if values.shape != self.action_space.shape or not np.isfinite(values).all():
            raise ValueError(
                f"action of {type(self).__name__}: found {values.tolist()}, "
                f"expected {self.action_space.shape} finite numbers"
            )
        self._data.ctrl[:] = self.control(values)
        self._data.qacc_warmstart[:] = 0.0
        mujoco.mj_step(self._scene.model, self._data, nstep=self.substeps)
        self._pose(self._data)

    def draw(self, out: Frame) -> None:
        """Draw the current state into ``out`` ``(S, S, 3)``."""
        self._scene.draw(self._data, out)

    def picture(self, state: NDArray[Any]) -> Frame:
        """Draw another state, ``(S, S, 3)``; the simulator is not involved."""
        self._place(self._other, self.check_state(state))
        out = np.empty((self.image_size, self.image_size, 3), dtype=np.uint8)
        self._scene.draw(self._other, out)
        return out

    def _place(self, data: mujoco.MjData, state: State) -> None:
        mujoco.mj_resetData(self._scene.model, data)
        data.qpos[:], data.qvel[:] = np.split(state, [self._scene.model.nq])
        self._pose(data)

    def _pose(self, data: mujoco.MjData) -> None:
        """Bring positions of bodies, cameras and lights up to date; a step leaves them one simulator step behind."""
        mujoco.mj_kinematics(self._scene.model, data)
        mujoco.mj_comPos(self._scene.model, data)
        mujoco.mj_camlight(self._scene.model, data)
