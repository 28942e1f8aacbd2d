import re

import numpy as np
import pytest

from jepakit.envs.tworoom import TwoRoom
from jepakit.export.runtime import open_backend


def test_the_graphs_written_by_hand_see_the_dot_and_know_where_it_goes(exact, bundle):
    backend, world = open_backend(bundle.folder), TwoRoom(image_size=exact.SIDE)
    rng = np.random.default_rng(0)
    for _ in range(10):
        world.reset(options={"state": rng.uniform((40, 90), (80, 130))})
        start = world.state
        seen = backend.encode(world.render()[None, None])
        np.testing.assert_allclose(seen[0, 0, 0], start, atol=1.0)
        actions = rng.uniform(-1.5, 1.5, (exact.HORIZON * exact.SKIP, 2)).astype(np.float32)
        for action in actions:
            world.advance(action)
        scores = backend.score(
            seen, np.empty((1, 0, 10), np.float32), actions.reshape(1, 1, 3, 10), np.float32([[[112, 49]]])
        )
        assert np.sqrt(scores.distance[0, 0, -1]) == pytest.approx(np.hypot(*(world.state - [112, 49])), abs=1.5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_robot_arrives(example, bundle, seed, capsys):
    assert example("simulated_robot").main([str(bundle.folder), "--rate", "50", "--seed", str(seed)]) == 0
    output = capsys.readouterr().out
    arrived = int(re.search(r"arrived at step (\d+)", output)[1])
    assert 1 < arrived <= 30
    # It keeps real time, so a busy machine may miss a deadline.
    assert re.search(
        r"50 steps, \d+ longer than a period; faults: (none|missed_deadline \d+); plan p50/p95/p99", output
    )
    assert "period jitter p50/p95/p99" in output


def test_the_robot_survives_a_blackout(example, bundle, capsys):
    arguments = [str(bundle.folder), "--rate", "50", "--blackout", "7"]
    assert example("simulated_robot").main(arguments) == 0
    assert "no_frame 7" in capsys.readouterr().out


def test_a_bundle_without_planner_settings_is_refused(example, exact, tmp_path):
    bundle = exact.write_bundle(tmp_path / "bare", planner=None)
    with pytest.raises(ValueError, match="planner: found no settings"):
        example("simulated_robot").main([str(bundle.folder)])
