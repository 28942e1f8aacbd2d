"""The feature cache: the same losses, the encoder once per frame."""

import lightning as L
import numpy as np
import pytest
import torch

from jepakit.callbacks import DecoderProbe, FeatureCache, LatentMap, RunEstimate
from jepakit.datamodules import TwoRoom
from jepakit.datamodules.collect import collect
from jepakit.datamodules.goals import Goals
from jepakit.datamodules.store import EpisodeStore
from jepakit.zoo import DINOWM, Controller, ControllerConfig, LeWM

torch.set_num_threads(1)

COMMON = {"image_size": 32, "frame_skip": 2, "action_dim": 2, "history": 2, "encoder": "cnn", "cnn_channels": (4, 6)}
SIZES = {"predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16, "dropout": 0.0}


@pytest.fixture
def weights(tmp_path):
    def save(seed):
        torch.manual_seed(seed)
        model = LeWM({**COMMON, "latent_dim": 8, "projector_hidden": 12, "predictor_width": 8, "predictor_mlp": 16})
        return str(model.save_pretrained(tmp_path / f"lewm-{seed}"))

    return save


def make_module(weights):
    torch.manual_seed(0)
    return DINOWM({**COMMON, **SIZES, "encoder_size": 32}, {"lr": 1e-2}, encoder_weights=weights)


def make_data(store, **changes):
    return TwoRoom(str(store), **{"image_size": 32, "history": 2, "frame_skip": 2, "batch_size": 16, **changes})


class Losses(L.Callback):
    def __init__(self):
        self.found, self.keys = [], set()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.found.append(outputs["loss"].item())
        self.keys |= batch.keys()


def train(module, data, folder, *callbacks, **changes):
    settings = {"max_steps": 6, "limit_val_batches": 1, "accelerator": "cpu", "logger": False}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**settings, **quiet, **changes})
    trainer.fit(module, data)


def count_encoder_calls(module):
    calls = []
    module.model.encoder.register_forward_hook(lambda *arguments: calls.append(len(arguments[2])))
    return calls


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_training_on_the_cache_is_training_on_the_frames(tworoom_store, weights, tmp_path, dtype, tolerance):
    plain, cached = Losses(), Losses()
    train(make_module(weights(1)), make_data(tworoom_store), tmp_path, plain)
    module = make_module(weights(1))
    train(module, make_data(tworoom_store), tmp_path, FeatureCache(str(tmp_path / "cache"), dtype), cached)
    assert "pixels" in plain.keys
    assert "pixels" not in cached.keys
    assert cached.keys >= {"features", "action"}
    np.testing.assert_allclose(cached.found, plain.found, rtol=tolerance)


def test_the_encoder_runs_once_per_frame_and_never_again(tworoom_store, weights, tmp_path):
    cache = str(tmp_path / "cache")
    module = make_module(weights(1))
    calls = count_encoder_calls(module)
    train(module, make_data(tworoom_store), tmp_path, FeatureCache(cache, batch_size=16))
    assert sum(calls) == EpisodeStore(tworoom_store).lengths.sum()
    assert max(calls) == 16
    again = make_module(weights(1))
    calls = count_encoder_calls(again)
    train(again, make_data(tworoom_store), tmp_path, FeatureCache(cache))
    assert calls == []
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_another_encoder_or_data_set_makes_another_cache(tworoom_store, other_store, weights, tmp_path):
    cache, data = tmp_path / "cache", make_data(tworoom_store)
    train(make_module(weights(1)), data, tmp_path, FeatureCache(str(cache)))
    first = data.features
    train(make_module(weights(2)), data, tmp_path, FeatureCache(str(cache)))  # the same data module once more
    assert data.features != first
    found = [EpisodeStore(path).read("features", np.arange(3)) for path in (first, data.features)]
    assert not np.allclose(*found)
    train(make_module(weights(1)), make_data(other_store), tmp_path, FeatureCache(str(cache)))
    train(make_module(weights(1)), make_data(tworoom_store), tmp_path, FeatureCache(str(cache), "float32"))
    assert len(list(cache.iterdir())) == 4


def test_an_interrupted_run_is_continued(tworoom_store, weights, tmp_path):
    class Stop(RuntimeError):
        pass

    module, calls = make_module(weights(1)), []

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Stop

    handle = module.model.encoder.register_forward_hook(interrupt)
    cache = FeatureCache(str(tmp_path / "cache"))
    with pytest.raises(Stop):
        train(module, make_data(tworoom_store), tmp_path, cache)
    handle.remove()
    calls = count_encoder_calls(module)
    data = make_data(tworoom_store)
    train(module, data, tmp_path, cache)
    assert len(calls) == len(data.source.lengths) - 3  # one batch per episode; three were done
    rows = np.arange(int(data.source.lengths.sum()))
    pixels = torch.from_numpy(data.source.read("pixels", rows))[None]
    expected = module.model.features({"pixels": pixels})[0].half().numpy()
    np.testing.assert_allclose(data.source.read("features", rows), expected, atol=2e-3)


def test_given_features_are_left_alone(tworoom_store, weights, tmp_path):
    data = make_data(tworoom_store)
    train(make_module(weights(1)), data, tmp_path, FeatureCache(str(tmp_path / "cache")))
    given = make_data(tworoom_store, features=data.features)
    train(make_module(weights(1)), given, tmp_path, FeatureCache(str(tmp_path / "other")))
    assert given.features == data.features
    assert not (tmp_path / "other").exists()


def test_the_other_callbacks_work_without_pixels_in_the_batch(tworoom_store, weights, tmp_path):
    callbacks = [FeatureCache(str(tmp_path / "cache")), DecoderProbe(blocks=2, steps=3), LatentMap(), RunEstimate()]
    train(make_module(weights(1)), make_data(tworoom_store), tmp_path, *callbacks)
    assert (tmp_path / "probes" / "decoder.png").exists()
    assert (tmp_path / "probes" / "latent_map.png").exists()


def test_models_that_train_their_encoder_are_refused(tworoom_store, tmp_path):
    with pytest.raises(ValueError, match=r"FeatureCache: found LeWM and TwoRoom, expected a module that reads"):
        train(LeWM({**COMMON, "latent_dim": 8}), make_data(tworoom_store), tmp_path, FeatureCache(str(tmp_path)))


def test_a_random_encoder_is_not_cached(tworoom_store, tmp_path):
    with pytest.raises(ValueError, match="encoder_weights: found nothing"):
        train(make_module(None), make_data(tworoom_store), tmp_path, FeatureCache(str(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists()


def test_a_half_that_is_too_small_is_refused(tworoom_store, weights, tmp_path):
    module = make_module(weights(1))
    module.model.encoder.register_forward_hook(lambda module, arguments, tokens: 1e5 * (1 + tokens.abs()))
    with pytest.raises(ValueError, match="features of episode 0: found numbers beyond float16; use dtype 'float32'"):
        train(module, make_data(tworoom_store), tmp_path, FeatureCache(str(tmp_path / "cache")))
    with pytest.raises(ValueError, match="batch_size: found 0"):
        FeatureCache(batch_size=0)


@pytest.fixture(scope="session")
def other_store(tworoom_collection, tmp_path_factory):
    from dataclasses import replace

    return collect(replace(tworoom_collection, seed=1), tmp_path_factory.mktemp("other"), workers=1)


def test_a_controller_trains_on_latents_that_are_computed_once(tworoom_store, weights, tmp_path):
    def make():
        torch.manual_seed(0)
        config = ControllerConfig(frame_skip=2, steps=4, max_offset=10, width=16, dropout=0.0)
        return Controller(config, {"lr": 1e-2}, world_model=weights(1))

    plain, cached = Losses(), Losses()
    goals = Goals(max_offset=10, steps=4)
    train(make(), make_data(tworoom_store, goals=goals), tmp_path, plain)
    data, cache = make_data(tworoom_store, goals=goals), FeatureCache(str(tmp_path / "cache"), "float32")
    train(make(), data, tmp_path, cache, cached)
    assert cached.keys == plain.keys - {"pixels"} | {"features"}
    np.testing.assert_allclose(cached.found, plain.found, rtol=1e-5)
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.startswith("latents-lewm-")
    assert EpisodeStore(folder).columns["features"].shape == (1, 8)
