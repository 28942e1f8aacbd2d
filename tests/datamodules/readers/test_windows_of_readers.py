"""The same training windows from every format, in this process and in loader processes."""

import numpy as np
import pytest

from jepakit.datamodules import EpisodeDataModule


def windows(path, workers):
    module = EpisodeDataModule(str(path), image_size=64, batch_size=2, num_workers=workers)
    module.setup()
    return module, list(module.test_dataloader())


@pytest.mark.parametrize("kind", ["sample", "sample_lance", "dinowm", "lerobot"])
def test_batches_hold_the_rows_they_say_with_and_without_workers(kind, request):
    found = request.getfixturevalue(kind)
    path = found[0] if isinstance(found, tuple) else found
    module, alone = windows(path, workers=0)
    assert alone
    for batch in alone:
        assert str(batch["pixels"].dtype) == "torch.uint8"
        assert np.isfinite(batch["action"].numpy()).all()
        for place, (episode, start) in enumerate(zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True)):
            rows = module.source.offsets[episode] + start + np.arange(20)
            np.testing.assert_array_equal(batch["pixels"][place], module.source.read("pixels", rows[::5]))
            np.testing.assert_array_equal(batch["proprio"][place], module.source.read("proprio", rows[::5]))
    _, apart = windows(path, workers=1)
    for here, there in zip(alone, apart, strict=True):
        for name in here:
            np.testing.assert_array_equal(there[name], here[name])


def test_only_local_hdf5_is_forked(sample, sample_lance, dinowm, lerobot):
    for path, context in ((sample, None), (sample_lance, "spawn"), (dinowm[0], "spawn"), (lerobot[0], "spawn")):
        module = EpisodeDataModule(str(path), image_size=64, batch_size=2, num_workers=1)
        module.setup()
        used = module.val_dataloader().multiprocessing_context
        assert (used and used.get_start_method()) == context


def test_a_bad_frame_met_by_a_worker_still_names_file_and_episode(dinowm):
    folder = dinowm[0]
    module = EpisodeDataModule(str(folder), image_size=64, batch_size=2, num_workers=1)
    module.setup()
    episode = int(module.parts["test"][0])
    (folder / f"obses/episode_{episode:03d}.mp4").write_bytes(b"not a video")
    with pytest.raises((ValueError, RuntimeError), match=rf"pusht_noise: episode {episode}: .*not a readable video"):
        list(module.test_dataloader())
