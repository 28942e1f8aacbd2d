import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning import CEM, CEMConfig, Planner
from jepakit.zoo.lewm.config import LeWMConfig
from jepakit.zoo.lewm.model import LeWMModel
from jepakit.zoo.lewm.module import LeWM

SIZE, HISTORY, WIDTH = 16, 3, 6
STATISTICS = SimpleNamespace(
    action_mean=np.linspace(-0.2, 0.2, WIDTH, dtype=np.float32),
    action_std=np.linspace(0.3, 0.6, WIDTH, dtype=np.float32),
    action_low=np.array([-1.0, -1.0], np.float32),
    action_high=np.array([1.0, 1.5], np.float32),
)


def config(encoder):
    return LeWMConfig(
        image_size=SIZE,
        frame_skip=3,
        action_dim=2,
        history=HISTORY,
        encoder=encoder,
        patch_size=8,
        cnn_channels=(8, 16),
        vit_width=24,
        vit_depth=2,
        vit_mlp=48,
        latent_dim=12,
        projector_hidden=32,
        action_hidden=16,
        predictor_width=24,
        predictor_depth=2,
        predictor_heads=2,
        predictor_head_dim=12,
        predictor_mlp=48,
        directions=8,
    )


def fill(model):
    """Random weights everywhere: fresh AdaLN gates are zero, and costs would not depend on the actions."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    model.set_statistics(STATISTICS)
    return model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Operations this small only get slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["cnn", "vit"])
def model(request):
    return fill(LeWMModel(config(request.param)))


@pytest.fixture(scope="module")
def query(model):
    """Sixteen environments with full histories: arguments of ``score`` and the frames behind them."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, size=(16, HISTORY + 1, SIZE, SIZE, 3), dtype=np.uint8)
    latents = TorchBackend(model).encode(frames)
    past = rng.normal(size=(16, HISTORY - 1, WIDTH)).astype(np.float32)
    candidates = rng.normal(size=(16, 40, 4, WIDTH)).astype(np.float32)
    return frames, (latents[:, :HISTORY], past, candidates, latents[:, HISTORY])


def test_the_spec_is_the_models(model):
    spec = TorchBackend(model).spec
    assert (spec.image_size, spec.history, spec.frame_skip, spec.action_dim) == (SIZE, HISTORY, 3, 2)
    assert (spec.tokens, spec.width) == (1, 12)
    for name, value in vars(STATISTICS).items():
        np.testing.assert_array_equal(getattr(spec, name), value)


@pytest.mark.parametrize("history", range(1, HISTORY + 1))
def test_scores_are_the_models_goal_cost_after_every_block(model, query, history):
    latents, past, candidates, goal = query[1]
    latents, past = latents[:, :history], past[:, : history - 1]
    found = TorchBackend(model).score(latents, past, candidates, goal).distance
    with torch.no_grad():
        predicted = model.rollout(*(torch.tensor(array) for array in (latents, past, candidates)))
        expected = [model.goal_cost(predicted[:, :, step], torch.tensor(goal)).numpy() for step in range(4)]
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), rtol=1e-5)
    spread = found.std(axis=1) / found.mean(axis=1)
    assert spread.min() > 1e-3, "costs that do not depend on the actions prove nothing"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch.compile's own
def test_compiled_imagination_gives_the_same_scores():
    model = fill(LeWMModel(dataclasses.replace(config("cnn"), predictor_depth=1)))  # compiling takes long enough
    rng = np.random.default_rng(0)
    shapes = ((1, 1, 1, 12), (1, 0, WIDTH), (1, 20, 1, WIDTH), (1, 1, 12))
    arguments = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    compiled = TorchBackend(model, compiled=True)
    expected = TorchBackend(model).score(*arguments).distance
    np.testing.assert_allclose(compiled.score(*arguments).distance, expected, rtol=1e-4)
    _, pull_back = compiled.differentiate(*arguments)
    assert np.abs(pull_back(np.ones_like(expected), None)).max() > 0  # gradients do without


def test_encodings_and_scores_are_bit_identical_whatever_the_batch(model, query):
    frames, arguments = query
    backend = TorchBackend(model)
    latents, costs = backend.encode(frames), backend.score(*arguments).distance
    for index in range(16):
        alone = slice(index, index + 1)
        np.testing.assert_array_equal(backend.encode(frames[alone]), latents[alone])
        np.testing.assert_array_equal(backend.score(*(array[alone] for array in arguments)).distance, costs[alone])


def test_plans_are_bit_identical_for_batch_1_and_16(model, query):
    frames, (_, past, _, _) = query

    def plan(rows):
        planner = Planner(
            TorchBackend(model), CEM(CEMConfig(samples=30, elites=5, iterations=4, noise_exponent=1.0)), bounded=True
        )
        rngs = [np.random.default_rng([9, index]) for index in range(16)[rows]]
        observation = planner.observe(frames[rows, :HISTORY], past[rows])
        return planner.plan(observation, planner.encode_goal(frames[rows, HISTORY]), horizon=3, rngs=rngs)

    together = plan(slice(0, 16))
    assert len(np.unique(together.actions[:, 0, 0])) == 16
    for index in range(16):
        alone = plan(slice(index, index + 1))
        np.testing.assert_array_equal(alone.actions[0], together.actions[index])
        assert alone.cost[0] == together.cost[index]


@pytest.mark.parametrize("options", [{"candidates_per_call": 7}, {"environments_per_call": 5}])
def test_chunks_change_rounding_only(model, query, options):
    frames, arguments = query
    whole, parts = TorchBackend(model), TorchBackend(model, **options)
    np.testing.assert_allclose(parts.encode(frames), whole.encode(frames), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts.score(*arguments).distance, whole.score(*arguments).distance, rtol=1e-4)


def test_a_candidates_cost_does_not_depend_on_the_other_candidates(model, query):
    latents, past, candidates, goal = query[1]
    backend = TorchBackend(model)
    whole = backend.score(latents, past, candidates, goal).distance
    for some in ([0], [39, 3, 17]):
        np.testing.assert_allclose(
            backend.score(latents, past, candidates[:, some], goal).distance, whole[:, some], rtol=1e-4
        )


def test_autocast_outside_does_not_reach_the_model(model, query):
    backend = TorchBackend(model)
    plain = backend.score(*query[1]).distance
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(backend.score(*query[1]).distance, plain)


def test_a_lightning_module_serves_as_its_model(query):
    module = LeWM(config("cnn"))
    fill(module.model)
    backend = TorchBackend(module)
    assert backend.model is module.model
    assert backend.score(*query[1]).distance.shape == (16, 40, 4)


def test_a_model_in_training_mode_is_refused(query):
    model = fill(LeWMModel(config("cnn")))
    backend = TorchBackend(model)
    assert not model.training
    model.train()
    with pytest.raises(RuntimeError, match="model: found training mode, expected evaluation mode"):
        backend.score(*query[1])


def test_a_model_in_another_precision_is_refused():
    with pytest.raises(ValueError, match=r"model parameters: found torch.bfloat16, expected torch.float32"):
        TorchBackend(LeWMModel(config("cnn")).bfloat16())


@pytest.mark.parametrize("option", ["candidates_per_call", "environments_per_call"])
def test_empty_chunks_are_refused(model, option):
    with pytest.raises(ValueError, match=f"TorchBackend.{option}: found 0, expected at least 1"):
        TorchBackend(model, **{option: 0})


def test_threads_are_set_while_the_model_runs_and_restored(model, query, monkeypatch):
    seen = []
    original = type(model).encode
    monkeypatch.setattr(
        type(model), "encode", lambda self, obs: seen.append(torch.get_num_threads()) or original(self, obs)
    )
    before = torch.get_num_threads()
    backend = TorchBackend(model, threads=before + 1)
    backend.encode(np.zeros((1, 1, SIZE, SIZE, 3), np.uint8))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
