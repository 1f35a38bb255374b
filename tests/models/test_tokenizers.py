from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vatt.models.positions import Positions
from vatt.models.tokenizers import AudioTokenizer, TextTokenizer, VideoTokenizer


def test_video_patches_are_what_a_strided_convolution_sees() -> None:
    tokenizer = VideoTokenizer(8, grid=(2, 3, 2), patch=(4, 16, 16))
    video = torch.randn(2, 8, 3, 48, 32)
    patches = tokenizer.patchify(video)
    assert patches.x.shape == (2, 12, 3072)
    assert patches.grid == (2, 3, 2)
    assert patches.valid is None
    # The same linear layer as a convolution whose stride is its kernel (the official tokenizer).
    kernel = tokenizer.project.weight.reshape(8, 4, 16, 16, 3).permute(0, 4, 1, 2, 3)
    expected = F.conv3d(video.transpose(1, 2), kernel, tokenizer.project.bias, stride=(4, 16, 16))
    assert torch.allclose(tokenizer.project(patches.x), expected.flatten(2).transpose(1, 2), atol=1e-5)
    assert patches.position[0].tolist() == [[t, h, w] for t in range(2) for h in range(3) for w in range(2)]


def test_video_tokens_are_patch_plus_normed_sum_of_the_axes() -> None:
    tokenizer = VideoTokenizer(8, grid=(2, 2, 2), scale=2.0)
    video = torch.randn(1, 8, 3, 32, 32)
    tokens = tokenizer(video)
    t, h, w = 1, 0, 1
    place = t * 4 + h * 2 + w
    pixels = video[0, 4:8, :, :16, 16:].permute(0, 2, 3, 1).reshape(-1)  # time, row, column, channel
    tables = tokenizer.positions.tables
    added = F.layer_norm(tables[0][t] + tables[1][h] + tables[2][w], (8,), eps=1e-6)
    expected = tokenizer.project.weight @ (2.0 * pixels) + tokenizer.project.bias + added
    assert torch.allclose(tokens.x[0, place], expected, atol=1e-5)


def test_the_papers_token_counts() -> None:
    with torch.device("meta"):
        video, audio = VideoTokenizer(64), AudioTokenizer(64)
        assert video.patchify(torch.empty(1, 32, 3, 224, 224)).x.shape == (1, 1568, 3072)
        assert audio.patchify(torch.empty(1, 153_600)).x.shape == (1, 1200, 128)


def test_waveform_segments_keep_their_samples_and_places() -> None:
    tokenizer = AudioTokenizer(8, length=5, segment=4, scale=3.0)
    wave = torch.randn(2, 20)
    patches = tokenizer.patchify(wave)
    assert torch.equal(patches.x[1, 3], wave[1, 12:16])
    assert patches.position[0, :, 0].tolist() == [0, 1, 2, 3, 4]
    tokens = tokenizer(wave)
    added = F.layer_norm(tokenizer.positions.tables[0][3], (8,), eps=1e-6)
    expected = tokenizer.project.weight @ (3.0 * wave[1, 12:16]) + tokenizer.project.bias + added
    assert torch.allclose(tokens.x[1, 3], expected, atol=1e-5)


def test_padding_of_a_text_is_not_valid() -> None:
    tokenizer = TextTokenizer(8, vocabulary_size=10, length=6, pad_id=3)
    tokens = tokenizer(torch.tensor([[5, 1, 3, 3], [0, 3, 2, 1]]))
    assert tokens.valid.tolist() == [[True, True, False, False], [True, False, True, True]]
    expected = tokenizer.words.weight[1] + F.layer_norm(tokenizer.positions.tables[0][1], (8,), eps=1e-6)
    assert torch.allclose(tokens.x[0, 1], expected, atol=1e-6)


def test_dropped_places_can_be_embedded_by_their_ids() -> None:
    positions = Positions([4, 2, 2], 8)
    everywhere = torch.cartesian_prod(torch.arange(4), torch.arange(2), torch.arange(2))[None]
    some = everywhere[:, [3, 9]]
    assert torch.equal(positions(some), positions(everywhere)[:, [3, 9]])


@pytest.mark.parametrize(
    ("tokenizer", "shape", "says"),
    [
        (VideoTokenizer(8, grid=(2, 2, 2)), (1, 3, 8, 32, 32), r"a video is \(B, T, 3, H, W\)"),
        (
            VideoTokenizer(8, grid=(2, 2, 2)),
            (1, 11, 3, 32, 40),
            "11 frames of 32 x 40 cannot be cut into patches of 4 frames of 16 x 16",
        ),
        (AudioTokenizer(8, length=4), (1, 500), "a multiple of the 128 samples"),
        (TextTokenizer(8, 10, length=4), (1, 5), "L up to 4"),
    ],
)
def test_wrong_shapes_are_named(tokenizer: torch.nn.Module, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tokenizer(torch.zeros(shape))


def test_pixels_that_are_not_in_their_range_yet_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float in .-1, 1., not torch\.uint8"):
        VideoTokenizer(8, (1, 1, 1))(torch.zeros(1, 4, 3, 16, 16, dtype=torch.uint8))


def test_gradients_are_the_same_every_time_on_several_threads() -> None:
    """Sums in an order that threads decide would make two runs of one seed differ."""
    tokenizer = VideoTokenizer(64, grid=(4, 4, 4), patch=(1, 2, 2))
    raw = torch.randn(64, 4, 3, 8, 8)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(8):
            tokenizer.zero_grad()
            tokenizer(raw).x.square().sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in tokenizer.positions.tables]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_second_projection_stands_before_the_positions() -> None:
    tokenizer = AudioTokenizer(8, length=5, segment=4, pre_projection=True)
    wave = torch.randn(1, 20)
    embedded = F.gelu(tokenizer.pre_projection(tokenizer.project(wave.view(1, 5, 4))))
    added = F.layer_norm(tokenizer.positions.tables[0], (8,), eps=1e-6)
    assert torch.allclose(tokenizer(wave).x, embedded + added, atol=1e-6)


def test_words_of_another_width_are_projected_and_the_agg_token_with_them() -> None:
    tokenizer = TextTokenizer(
        8, 10, length=4, embedding_width=6, projection_bias=False, positions=False, agg_in_embedding=True, frozen=True
    )
    tokens = tokenizer(torch.tensor([[5, 1, 0, 0]]))
    assert torch.allclose(tokens.x[0, 1], F.gelu(tokenizer.words.weight[1] @ tokenizer.project.weight.T), atol=1e-6)
    agg = torch.randn(6)
    assert tokenizer.agg_width == 6
    expected = F.gelu(agg @ tokenizer.project.weight.T)
    assert torch.allclose(tokenizer.embed_agg(agg, 2), expected.expand(2, 1, 8), atol=1e-6)
    assert not tokenizer.words.weight.requires_grad
    plain = TextTokenizer(8, 10, length=4)
    assert plain.agg_width == 8
    assert torch.equal(plain.embed_agg(agg, 2), agg.expand(2, 1, 6))


def test_each_clip_has_a_dropout_of_its_own() -> None:
    """On the aggregation token among the words too."""
    tokenizer = TextTokenizer(64, 10, 4, dropout=0.5, embedding_width=6, positions=False, agg_in_embedding=True)
    agg = tokenizer.embed_agg(torch.randn(6), 8)
    assert len({tuple(row) for row in (agg == 0).flatten(1).tolist()}) == 8


def test_patches_can_be_dropped_before_they_are_embedded() -> None:
    """What masked objectives do: the same tokens as embedding everything first."""
    tokenizer = VideoTokenizer(8, grid=(2, 2, 2))
    patches = tokenizer.patchify(torch.randn(2, 8, 3, 32, 32))
    keep = torch.tensor([[0, 5, 7], [1, 2, 3]])
    some = tokenizer.embed(patches.take(keep))
    everything = tokenizer.embed(patches)
    for b in range(2):
        assert torch.allclose(some[b], everything[b, keep[b]], atol=1e-6)
