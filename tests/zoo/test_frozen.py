"""The frozen encoder against the transformers library, through the files that library writes."""

import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from jepakit.zoo import DINOWM, DINOWMConfig, DINOWMModel, LeWM, from_pretrained
from jepakit.zoo.encoder_weights import read_encoder, translate
from jepakit.zoo.frozen import FrozenEncoder, Resize

SIZES = {"patch_size": 7, "vit_width": 24, "vit_depth": 2, "vit_heads": 2, "vit_mlp": 48}


def small_config(**changes):
    sizes = {**SIZES, "image_size": 28, "encoder_size": 28, "frame_skip": 2, "action_dim": 3}
    predictor = {"predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16}
    return DINOWMConfig(**{**sizes, **predictor, **changes})


def their_model(kind, trained_size=28, width=24, **changes):
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    torch.manual_seed(0)
    common = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 7, **changes}
    if kind == "dinov2":
        model = Dinov2Model(Dinov2Config(image_size=trained_size, mlp_ratio=2, **common))
    else:
        model = ViTModel(ViTConfig(image_size=trained_size, intermediate_size=2 * width, **common))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # nothing at its trivial initial value, layer scales and biases among them
        for value in model.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator) + (value == 1))
    return model.eval()


@pytest.fixture(params=["dinov2", "vit"])
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    their_model(kind).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def frames(size, count=3):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("trained_size", "size"), [(28, 28), (35, 28), (28, 42)])
@torch.no_grad()
def test_tokens_are_those_of_the_transformers_library(kind, tmp_path, trained_size, size):
    """Also where the encoder was trained on frames of another size, so that positions are interpolated."""
    theirs = their_model(kind, trained_size)
    theirs.save_pretrained(tmp_path / "encoder")
    model = DINOWMModel(small_config(encoder=kind, image_size=size, encoder_size=size))
    model.load_encoder(tmp_path / "encoder")
    arguments = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
    expected = theirs(frames(size), **arguments).last_hidden_state[:, 1:]
    assert expected.std() > 0.1
    torch.testing.assert_close(model.encoder(frames(size)), expected, atol=1e-5, rtol=1e-5)


def test_both_spellings_of_the_library_are_read(kind, folder):
    """The files have the old names, which the library translates while loading; so can we."""
    config = small_config(encoder=kind)
    direct = translate(load_file(folder / "model.safetensors"), config)
    for name, value in read_encoder(folder, config).items():
        torch.testing.assert_close(direct[name.removeprefix("body.")], value)


@torch.no_grad()
def test_frames_are_scaled_as_interpolate_does():
    expected = F.interpolate(frames(32), (28, 28), mode="bilinear", antialias=True)
    torch.testing.assert_close(Resize(32, 28)(frames(32)), expected, atol=1e-5, rtol=1e-5)
    model = DINOWMModel(small_config(image_size=32, encoder_size=28))
    torch.testing.assert_close(model.encoder(frames(32)), model.encoder.body(expected), atol=1e-4, rtol=1e-4)


def test_the_two_token_variants_of_the_default():
    assert (DINOWMConfig().tokens, DINOWMConfig(encoder_size=224).tokens) == (196, 256)
    assert DINOWMConfig().token_width == 384


@torch.no_grad()
def test_the_encoder_has_no_gradients_and_no_train_mode(folder, kind):
    model = DINOWMModel(small_config(encoder=kind))
    model.load_encoder(folder)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert torch.equal(model.train().encoder(frames(28)), model.eval().encoder(frames(28)))


@torch.no_grad()
def test_a_checkpoint_rebuilds_the_encoder_without_its_source(folder, kind, tmp_path):
    module = DINOWM(small_config(encoder=kind), encoder_weights=str(folder))
    module.fetch_encoder()
    pixels = torch.randint(0, 256, (1, 2, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    expected = module.eval().encode({"pixels": pixels})
    module.save_pretrained(tmp_path / "model")
    for file in folder.iterdir():
        file.unlink()
    loaded = from_pretrained(tmp_path / "model")
    assert loaded.model.encoder.loaded
    assert torch.equal(loaded.encode({"pixels": pixels}), expected)


def test_equal_weights_have_equal_fingerprints(folder, kind):
    config = small_config(encoder=kind)
    first, second = FrozenEncoder(config), FrozenEncoder(config)
    assert first.fingerprint() != second.fingerprint()
    for encoder in (first, second):
        encoder.load_state_dict({**read_encoder(folder, config), "loaded": torch.tensor(True)})
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"vit_width": 12, "vit_depth": 1}, "set vit_width: 24, vit_depth: 2"),
        ({"patch_size": 14}, "set patch_size: 7"),
        ({"vit_heads": 3, "vit_mlp": 20}, "set vit_heads: 2, vit_mlp: 48"),
    ],
)
def test_sizes_that_do_not_fit_name_the_fields_to_set(folder, kind, changes, remedy):
    with pytest.raises(ValueError, match=rf"config.json: the encoder does not fit .*; {remedy}"):
        read_encoder(folder, small_config(encoder=kind, **changes))


@pytest.mark.parametrize("kind", ["vit"], indirect=True)
def test_another_kind_of_encoder_is_named(folder):
    with pytest.raises(ValueError, match="encoder dinov2; set encoder: vit"):
        read_encoder(folder, small_config(encoder="dinov2"))


def test_a_folder_without_weights_says_so(folder, kind):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors: no such file; found \['config.json'\]"):
        read_encoder(folder, small_config(encoder=kind))


@pytest.mark.parametrize("kind", ["dinov2"], indirect=True)
def test_pickled_weights_are_not_read(folder):
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors: no such file"):
        read_encoder(folder, small_config())


@pytest.mark.parametrize("kind", ["dinov2"], indirect=True)
def test_missing_and_damaged_weights_are_refused(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    tensors = load_file(file)
    del tensors["layernorm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors are missing, among them \['layernorm.weight'\]"):
        read_encoder(folder, small_config())
    file.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors: cannot be read"):
        read_encoder(folder, small_config())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, "found a model of type 'bert', expected 'dinov2' or 'vit'"),
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, "another feed-forward layer than Linear, GELU, Linear"),
    ],
)
def test_other_models_are_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        read_encoder(tmp_path, small_config())


# -- the CPU recipe: convolutions of a model trained here --------------------------------------------------------------
@pytest.fixture
def trained(small, tmp_path):
    torch.manual_seed(0)
    lewm = LeWM(config={**small, "encoder": "cnn"})
    lewm.save_pretrained(tmp_path / "lewm")
    return lewm.model, tmp_path / "lewm"


def cnn_config(**changes):
    return small_config(**{"encoder": "cnn", "image_size": 16, "encoder_size": 16, "cnn_channels": (4, 6), **changes})


@torch.no_grad()
def test_tokens_are_the_standardised_feature_map_of_the_trained_encoder(trained):
    lewm, folder = trained
    model = DINOWMModel(cnn_config())
    model.load_encoder(folder)
    pixels = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    normalised = lewm.normalise_frames(pixels[None])[0]
    feature_map = lewm.eval().encoder(normalised).reshape(40, 6, 2, 2)
    third = feature_map[:, :, 1, 0]  # the third token is row 1, column 0
    torch.testing.assert_close(model.encoder(normalised)[:, 2], third)
    model.fit_tokens(pixels)
    deviation = (feature_map - feature_map.mean(0)).std()
    tokens = model.encoder(normalised)
    torch.testing.assert_close(tokens[:, 2], (third - third.mean(0)) / deviation, atol=1e-5, rtol=1e-4)
    model.fit_tokens(pixels[:5])  # fitted once, then it travels with the weights
    assert torch.equal(model.encoder(normalised), tokens)


def test_convolutions_of_other_sizes_name_the_fields_to_set(trained, small, tmp_path):
    _, folder = trained
    with pytest.raises(ValueError, match=r"set encoder_size: 16, cnn_channels: \(4, 6\)"):
        read_encoder(folder, cnn_config(image_size=32, encoder_size=32, cnn_channels=(4, 8)))
    LeWM(config=small).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="found a lewm with encoder 'vit', expected 'cnn'"):
        read_encoder(tmp_path / "vit", cnn_config())


def test_loading_warns_of_nothing(folder, kind, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_encoder(folder, small_config(encoder=kind))
    assert "UNEXPECTED" not in "".join(capfd.readouterr())
