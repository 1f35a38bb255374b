"""Masked autoencoding: equal to Hugging Face's VideoMAE, and what its masks and targets are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.hub.official.huggingface_models import add_noise
from tests.hub.official.test_video import normalised
from vatt.hub.official.preprocessing import Preprocessing
from vatt.hub.official.video_weights import fold_normalization
from vatt.models.backbone import Backbone
from vatt.models.selection import draw_masked
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.pixels import pixel_targets
from vatt.objectives.videomae import VideoMAE

GRID = (2, 4, 4)


def tower(positions: str = "flat", **how: object) -> Backbone:
    tokenizer = VideoTokenizer(24, GRID, (2, 8, 8), positions=positions)  # type: ignore[arg-type]
    return Backbone({"video": tokenizer}, {"video": Transformer(24, 3, 2, 40, agg=False, **how)})  # type: ignore[arg-type]


def batch(clips: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"video": torch.rand(clips, 4, 3, 32, 32) * 2 - 1, "video_valid": torch.ones(clips, dtype=torch.bool)}


def block(theirs: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """A block of VideoMAE under our names; keys have no bias there."""
    there = theirs.attention.attention
    zero = torch.zeros_like(there.query.bias)
    parts = {
        "attention_norm": theirs.layernorm_before, "attention.out": theirs.attention.output.dense,
        "mlp_norm": theirs.layernorm_after, "up": theirs.intermediate.dense, "down": theirs.output.dense,
    }  # fmt: skip
    named = {f"{name}.{part}.{end}": getattr(x, end) for part, x in parts.items() for end in ("weight", "bias")}
    named[f"{name}.attention.qkv.weight"] = torch.cat([x.weight for x in (there.query, there.key, there.value)])
    named[f"{name}.attention.qkv.bias"] = torch.cat([there.query.bias, zero, there.value.bias])
    return {key: value.detach() for key, value in named.items()}


def test_a_decoder_whose_positions_turn_sees_where_things_are() -> None:
    """Without positions that are added, tokens at other places are the same to a decoder, but not to this one."""
    video = batch(1)
    for rotary, seen_apart in ((False, False), (True, True)):
        torch.manual_seed(0)
        backbone = tower("none", rotary="space" if rotary else None)
        objective = VideoMAE(inner=12, depth=1, heads=2, positions="none", rotary=rotary)
        objective.build(backbone)
        for weight in objective.parameters():
            torch.nn.init.normal_(weight, std=0.5)
        tokens = backbone.tokenize("video", video["video"])
        seen = torch.arange(8)[None]
        said = [objective.predict(backbone, tokens, seen, torch.tensor([[place]])) for place in (8, 31)]
        assert torch.allclose(*said, atol=1e-6) != seen_apart


@pytest.mark.parametrize("target", ["normalised", "raw"])
def test_it_is_videomae(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and the gradients of encoder, decoder and mask token."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=40, decoder_hidden_size=12, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2, decoder_intermediate_size=48, use_mean_pooling=False, layer_norm_eps=1e-6,
        norm_pix_loss=target == "normalised",
    )  # fmt: skip
    theirs = transformers.VideoMAEForPreTraining(config)
    theirs.decoder.norm.eps = 1e-6  # as in the released code; Hugging Face leaves PyTorch's 1e-5
    add_noise(theirs)
    backbone = tower()
    objective = VideoMAE(inner=12, depth=2, heads=2, target=target)  # type: ignore[arg-type]
    objective.build(backbone)
    conv = theirs.videomae.embeddings.patch_embeddings.projection
    weight = conv.weight.detach().permute(0, 2, 3, 4, 1).flatten(1)
    folded = fold_normalization(weight, conv.bias.detach(), Preprocessing())
    weights = {f"tokenizers.video.project.{end}": x for end, x in zip(("weight", "bias"), folded, strict=True)}
    for i, layer in enumerate(theirs.videomae.encoder.layer):
        weights |= block(layer, f"transformers.video.blocks.{i}")
    for end in ("weight", "bias"):
        weights[f"transformers.video.norm.{end}"] = getattr(theirs.videomae.layernorm, end).detach()
    backbone.load_state_dict(weights)
    decoder = {"embed.weight": theirs.encoder_to_decoder.weight.detach(), "mask_tokens": theirs.mask_token[0].detach()}
    for i, layer in enumerate(theirs.decoder.decoder_layers):
        decoder |= block(layer, f"transformer.blocks.{i}")
    for end in ("weight", "bias"):
        decoder[f"transformer.norm.{end}"] = getattr(theirs.decoder.norm, end).detach()
        decoder[f"project.{end}"] = getattr(theirs.decoder.head, end).detach()
    objective.decoder.load_state_dict(decoder)

    clips = batch()
    seen, hidden = draw_masked(3, GRID, 0.75, "random")
    monkeypatch.setattr("vatt.objectives.videomae.draw_masked", lambda *_, **__: (seen, hidden))
    away = torch.zeros(3, 32, dtype=torch.bool).scatter(1, hidden, True)
    wanted = theirs(normalised(clips["video"]), bool_masked_pos=away).loss
    found = objective(backbone, clips)["loss"]  # type: ignore[arg-type]
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    wanted.backward()
    found.backward()
    for ours, other in (
        (objective.decoder.mask_tokens.grad, theirs.mask_token.grad[0]),
        (objective.decoder.project.weight.grad, theirs.decoder.head.weight.grad),
        (
            backbone.encoder("video").blocks[0].up.weight.grad,
            theirs.videomae.encoder.layer[0].intermediate.dense.weight.grad,
        ),
    ):
        assert (ours - other).norm() <= 1e-4 * other.norm()


@given(
    batch=st.integers(1, 4), time=st.integers(1, 4), side=st.integers(2, 6), hidden=st.floats(0.3, 0.95),
    kind=st.sampled_from(["tube", "random"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_mask_is_seen_and_hidden_and_nothing_else(
    batch: int, time: int, side: int, hidden: float, kind: str, seed: int
) -> None:
    away = int(side**2 * hidden + 1e-9) * time if kind == "tube" else int(time * side**2 * hidden + 1e-9)
    generator = torch.Generator().manual_seed(seed)
    seen, gone = draw_masked(batch, (time, side, side), hidden, kind, generator=generator)  # type: ignore[arg-type]
    assert gone.shape == (batch, away)
    everything = torch.cat([seen, gone], dim=1).sort(dim=1).values
    assert torch.equal(everything, torch.arange(time * side**2).expand(batch, -1))
    assert (seen.diff() > 0).all()
    if kind == "tube":  # the same in every picture
        pictures = gone.view(batch, time, -1)
        assert torch.equal(pictures % side**2, (pictures % side**2)[:, :1].expand_as(pictures))


def test_masks_that_hide_all_or_nothing_are_refused() -> None:
    for hidden in (0.01, 0.999):
        with pytest.raises(ValueError, match="at least one must be"):
            draw_masked(1, (2, 4, 4), hidden if hidden < 0.5 else 1.0)
    with pytest.raises(ValueError, match="tube or random"):
        draw_masked(1, (2, 4, 4), 0.5, "blocks")  # type: ignore[arg-type]


def test_normalised_targets_have_mean_0_and_deviation_1() -> None:
    found = pixel_targets(torch.rand(2, 5, 2 * 8 * 8 * 3) * 2 - 1, "normalised").unflatten(-1, (-1, 3))
    assert found.mean(dim=-2).abs().max() < 1e-4
    assert (found.std(dim=-2) - 1).abs().max() < 1e-3
    assert torch.equal(pixel_targets(torch.tensor([[[-1.0, 0.0, 1.0]]]), "raw"), torch.tensor([[[0.0, 0.5, 1.0]]]))


@pytest.mark.parametrize("how", [{}, {"trunk_blocks": 1}, {"trunk_blocks": 2, "positions": "joint"}])
def test_it_learns_to_fill_in_what_it_does_not_see(how: dict[str, object]) -> None:
    """Pictures of one colour each: what is seen tells what is hidden."""
    torch.manual_seed(0)
    backbone = tower(how.get("positions", "flat"), final_norm="positions" not in how)  # type: ignore[arg-type]
    trunk = {key: value for key, value in how.items() if key == "trunk_blocks"}
    objective = VideoMAE(hidden=0.75, inner=24, depth=1, heads=2, target="raw", **trunk)  # type: ignore[arg-type]
    objective.build(backbone)
    optimizer = torch.optim.Adam([*backbone.parameters(), *objective.parameters()], 3e-3)
    for _ in range(120):
        colours = torch.rand(16, 1, 3, 1, 1) * 2 - 1
        clips = {"video": colours.expand(-1, 4, -1, 32, 32), "video_valid": torch.ones(16, dtype=torch.bool)}
        loss = objective(backbone, clips)["loss"]  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02  # 1/12 is the variance of the colours


@pytest.mark.parametrize("trunk_blocks", [0, 1])
def test_a_clip_counts_by_itself(trunk_blocks: int) -> None:
    """What is seen of one clip says nothing of another; clips without a picture count nothing; hidden pixels matter."""
    backbone = tower()
    objective = VideoMAE(inner=12, depth=1, heads=2, trunk_blocks=trunk_blocks)
    objective.build(backbone)
    clips = batch()
    tokens = backbone.tokenize("video", clips["video"])
    seen, hidden = draw_masked(3, GRID, 0.75)
    whole = objective.predict(backbone, tokens, seen, hidden)
    other = clips["video"].clone()
    other[1] = torch.rand_like(other[1])
    changed = objective.predict(backbone, backbone.tokenize("video", other), seen, hidden)
    torch.testing.assert_close(whole[[0, 2]], changed[[0, 2]])
    assert not torch.allclose(whole[1], changed[1])
    losses = []
    for video in (clips["video"], other):
        objective.draws = torch.Generator().manual_seed(0)
        valid = torch.tensor([True, False, True])
        losses.append(objective(backbone, {"video": video, "video_valid": valid})["loss"].item())  # type: ignore[typeddict-item]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_towers_that_do_not_fit_are_refused() -> None:
    pooled = Backbone({"video": VideoTokenizer(8, GRID, (2, 8, 8))}, {"video": Transformer(8, 1, 2)})
    with pytest.raises(ValueError, match="agg=False"):
        VideoMAE().build(pooled)
    with pytest.raises(ValueError, match="trunk_blocks=3 of the 3"):
        VideoMAE(trunk_blocks=3).build(tower())
    with pytest.raises(ValueError, match="normalised or raw"):
        VideoMAE(target="pixels")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share of the places"):
        VideoMAE(hidden=1.0)
