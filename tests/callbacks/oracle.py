"""Models whose truth is known: of Two-Room's world, also deaf to actions; of scenes, also blind to other objects."""

import dataclasses

import numpy as np
import torch

from jepakit.envs.collisions import Collisions
from jepakit.envs.scene import FIELDS, X
from jepakit.envs.tworoom import SPEED, move
from jepakit.zoo.base import WorldModel, WorldModelConfig

LEWM = {
    **{"image_size": 32, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8, "projector_hidden": 12},
    **{"predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1, "directions": 8},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProprioConfig(WorldModelConfig):
    proprio_dim: int = 2


class Oracle(WorldModel):
    """Latents are where the agent is; it walks as the environment does."""

    name = "oracle"
    listens = True

    def __init__(self, config=ProprioConfig(image_size=32)):
        super().__init__(config)

    def encode(self, observation):
        return observation["proprio"].unsqueeze(2)

    def predict(self, latents, actions):
        steps = [
            self.rollout(latents[:, : k + 1], actions[:, :k], actions[:, None, k : k + 1])[:, 0, 0]
            for k in range(latents.shape[1])
        ]
        return torch.stack(steps, dim=1)

    def rollout(self, latents, past_actions, candidates):
        batch, samples, horizon, _ = candidates.shape
        ahead = latents.new_empty(batch, samples, horizon, 1, 2)
        for row, sample in np.ndindex(batch, samples):
            place = tuple(latents[row, -1, 0].tolist())
            for step, action in enumerate(candidates[row, sample].reshape(-1, 2).clamp(-1, 1).tolist()):
                if self.listens:
                    place = move(*place, *(SPEED * part for part in action))
                ahead[row, sample, step // 5, 0] = torch.tensor(place)
        return ahead

    def goal_cost(self, predicted, goal):
        return (predicted - goal.unsqueeze(1)).square().sum(dim=(2, 3))


class Deaf(Oracle):
    name = "deaf"
    listens = False


SCENE = ProprioConfig(proprio_dim=4, image_size=16, frame_skip=5, history=2)


class Simulator(WorldModel):
    """Knows the scene and its laws; ``blind`` to other objects, it lets all of them pass through each other."""

    name = "simulator"
    blind = False

    def __init__(self, config=SCENE):
        super().__init__(config)
        self.scene = Collisions(image_size=16)

    def encode(self, observation):
        return observation["state"].unsqueeze(2)

    def follow(self, state, blocks):
        ghosts = range(self.scene.slots) if self.blind else ()
        path = self.scene.resimulate(state.double().numpy(), blocks * 5, ghosts=ghosts)
        return torch.from_numpy(path.states[4::5]).float()

    def predict(self, latents, actions):
        return torch.stack([torch.stack([self.follow(state, 1) for state in row[:, 0]]) for row in latents])

    def rollout(self, latents, past_actions, candidates):
        ahead = [self.follow(row[-1, 0], candidates.shape[2]).unsqueeze(1) for row in latents]
        return torch.stack(ahead).unsqueeze(1)

    def goal_cost(self, predicted, goal):
        places = [slot * len(FIELDS) + field for slot in range(self.scene.slots) for field in (X, X + 1)]
        return (predicted - goal.unsqueeze(1))[..., places].square().sum(dim=(2, 3))


class Blind(Simulator):
    name = "blind"
    blind = True


def prepared(model, data):
    model.set_statistics(data.statistics)
    return model.eval()
