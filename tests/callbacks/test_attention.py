"""Attention and ablation against true contacts, for a C-JEPA that is told how the world goes on."""

import dataclasses

import numpy as np
import pytest
import torch
from oracle import Simulator, prepared
from PIL import Image

from jepakit.callbacks import AttentionProbe
from jepakit.callbacks.attention import _attention
from jepakit.envs.collisions import Collisions as Scene
from jepakit.envs.scene import FIELDS
from jepakit.zoo.cjepa.config import CJEPAConfig
from jepakit.zoo.cjepa.model import CJEPAModel

OBJECTS = tuple(tuple(range(12 * slot, 12 * slot + 12)) for slot in range(6))
CONFIG = CJEPAConfig(
    **{"image_size": 16, "frame_skip": 5, "history": 2, "slots": 6, "slot_dim": 12, "encoder": "oracle"},
    **{"predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16},
    oracle_objects=OBJECTS,
)


class Knowing(CJEPAModel):
    """Its slots are the rows of the table of objects, which it simulates."""

    def encode(self, observation):
        return observation["state"].unflatten(-1, (6, len(FIELDS)))

    def predict_next(self, z, a):
        ends = [Scene(image_size=16).resimulate(row[-1].flatten().double().numpy(), 5).states[-1] for row in z]
        return torch.from_numpy(np.array(ends)).float().unflatten(-1, (6, len(FIELDS)))


def test_what_an_object_does_depends_on_what_it_touches(scenes, tmp_path):
    found = AttentionProbe(cases=12).run(prepared(Knowing(CONFIG), scenes), scenes, tmp_path, step=0)
    assert found["ablation/auroc_ahead"] > 0.95
    assert found["distance/auroc_ahead"] > 0.6
    assert 0 < found["touch_ahead"] < found["touch_window"] < 1
    assert {name.rpartition("/")[0] for name in found} == {
        *("", "attention", "ablation", "attention_random", "ablation_random", "distance")
    }
    height, width = np.asarray(Image.open(tmp_path / "attention.png")).shape[:2]
    assert width > 2 * height


@pytest.mark.parametrize("conditioning", ["nodes", "concatenated"])
def test_attention_is_from_future_queries_to_all_tokens_of_a_slot(conditioning):
    torch.manual_seed(0)
    model = CJEPAModel(dataclasses.replace(CONFIG, conditioning=conditioning)).eval()
    z, a = torch.randn(3, 2, 6, 12), torch.randn(3, 2, 12)
    tokens = 7 if conditioning == "nodes" else 6
    weights = model.predictor.attention(torch.cat([z, a.unsqueeze(2)], dim=2))
    assert weights.shape == (3, 1, 2, 3, tokens, 3, tokens)
    torch.testing.assert_close(weights.sum(dim=(-2, -1)), torch.ones(3, 1, 2, 3, tokens))
    expected = weights[:, 0, :, 2].sum(dim=3).mean(dim=1)[:, :6, :6]
    torch.testing.assert_close(_attention(model, z, a), expected)
    order = torch.randperm(6)
    torch.testing.assert_close(_attention(model, z[:, :, order], a), expected[:, order][:, :, order])


def test_models_without_known_objects_are_refused(scenes, data, tmp_path):
    probe = AttentionProbe(cases=2)
    with pytest.raises(ValueError, match="AttentionProbe: found Simulator, expected a C-JEPA with the encoder"):
        probe.run(prepared(Simulator(), scenes), scenes, tmp_path, step=0)
    finding = CJEPAModel(CJEPAConfig.nano())
    with pytest.raises(ValueError, match="found CJEPAModel with the encoder 'slot_attention'"):
        probe.run(finding, scenes, tmp_path, step=0)
    mixed = dataclasses.replace(CONFIG, oracle_objects=(OBJECTS[1], OBJECTS[0], *OBJECTS[2:]))
    with pytest.raises(
        ValueError, match=r"found slot 0 made of the columns \[12, .*order oracle_objects as the scene is"
    ):
        probe.run(CJEPAModel(mixed), scenes, tmp_path, step=0)
    with pytest.raises(ValueError, match="AttentionProbe: found data of TwoRoom"):
        probe.run(CJEPAModel(CONFIG), data, tmp_path, step=0)
