import pytest
import torch

from jepakit.zoo.layers.decoders import PatchDecoder, VectorDecoder, picture_decoder


@pytest.mark.parametrize(
    ("tokens", "image_size", "kind"),
    [
        *[(196, 224, PatchDecoder), (256, 224, PatchDecoder), (16, 64, PatchDecoder), (4, 16, PatchDecoder)],
        *[(1, 224, VectorDecoder), (1, 64, VectorDecoder), (1, 30, VectorDecoder)],
    ],
)
@torch.no_grad()
def test_pictures_have_the_frames_size(tokens, image_size, kind):
    decoder = picture_decoder(tokens=tokens, width=6, image_size=image_size)
    assert isinstance(decoder.body, kind)
    assert decoder(torch.zeros(2, tokens, 6)).shape == (2, 3, image_size, image_size)


def test_the_papers_number_of_queries():
    decoder = picture_decoder(tokens=1, width=6, image_size=224)
    assert decoder.body.queries.shape[1] == 196
    assert decoder.body.patch_size == 16


@pytest.mark.parametrize("tokens", [1, 4])
@torch.no_grad()
def test_the_first_picture_is_the_mean(tokens):
    decoder = picture_decoder(tokens=tokens, width=6, image_size=16)
    pictures = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    decoder.start_from(pictures)
    torch.testing.assert_close(decoder(torch.ones(2, tokens, 6)), pictures.mean(0).expand(2, -1, -1, -1))


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(ValueError, match="tokens: found 5, expected those of a square grid"):
        picture_decoder(tokens=5, width=6, image_size=64)


def fit(decoder, latents, pictures, steps):
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(decoder(latents), pictures)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item() / pictures.var().item()


def quadrants(grid):
    """Pictures of 32 pixels with one bright quadrant, and tokens of a ``grid`` that mark where it is."""
    pictures, tokens = torch.zeros(4, 3, 32, 32), torch.zeros(4, grid, grid, 5)
    for index in range(4):
        row, column = divmod(index, 2)
        half = grid // 2
        pictures[index, :, row * 16 : (row + 1) * 16, column * 16 : (column + 1) * 16] = 1.0
        tokens[index, row * half : (row + 1) * half, column * half : (column + 1) * half] = 1.0
    return pictures, tokens.flatten(1, 2)


def test_a_token_is_decoded_where_it_is():
    """Trained on three quadrants, the fourth is drawn in its place: rows are rows and columns are columns."""
    torch.manual_seed(0)
    pictures, tokens = quadrants(2)
    decoder = PatchDecoder(5, tokens=4, image_size=32, channels=32)
    assert fit(decoder, tokens, pictures, 150) < 0.05
    with torch.no_grad():
        found = decoder(tokens[1:2])[0].mean(0)
    assert found[:16, 16:].mean() > 0.8
    assert found[:16, :16].mean() < 0.2
    assert found[16:].mean() < 0.2


def test_a_vector_is_enough_for_a_picture():
    torch.manual_seed(0)
    pictures, _ = quadrants(2)
    decoder = VectorDecoder(4, image_size=32, patch_size=8, inner=32, depth=2)
    assert fit(decoder, torch.eye(4).unsqueeze(1), pictures, 150) < 0.05
