"""V-JEPA: equal to the official code, and what its masks and its moving average are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from vatt.models.backbone import Backbone
from vatt.models.blocks import LONG_RANGE, SHORT_RANGE, BlockMask, draw_blocks
from vatt.models.predictor import Predictor
from vatt.models.probes import AttentiveClassifier
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.jepa import JEPA

PARITY = Path(os.environ.get("VATT_SHARED", ROOT.parent / "shared")) / "parity" / "vjepa.npz"


def tower(width: int = 96, depth: int = 3, heads: int = 4, frames: int = 8, size: int = 64) -> Backbone:
    grid = (frames // 2, size // 16, size // 16)
    tokenizer = VideoTokenizer(width, grid, patch=(2, 16, 16), positions="fixed")
    return Backbone({"video": tokenizer}, {"video": Transformer(width, depth, heads, agg=False)})


def block_names(official: str, ours: str) -> dict[str, str]:
    pairs = {
        "norm1": "attention_norm", "attn.qkv": "attention.qkv", "attn.proj": "attention.out", "norm2": "mlp_norm",
        "mlp.fc1": "up", "mlp.fc2": "down",
    }  # fmt: skip
    return {f"{official}.{a}.{end}": f"{ours}.{b}.{end}" for a, b in pairs.items() for end in ("weight", "bias")}


def encoder_names(depth: int) -> dict[str, str]:
    names = {f"patch_embed.proj.{end}": f"tokenizers.video.project.{end}" for end in ("weight", "bias")}
    for i in range(depth):
        names |= block_names(f"blocks.{i}", f"transformers.video.blocks.{i}")
    return names | {f"norm.{end}": f"transformers.video.norm.{end}" for end in ("weight", "bias")}


def predictor_names(depth: int) -> dict[str, str]:
    names = {}
    for i in range(depth):
        names |= block_names(f"predictor_blocks.{i}", f"transformer.blocks.{i}")
    for a, b in (("predictor_embed", "embed"), ("predictor_norm", "transformer.norm"), ("predictor_proj", "project")):
        names |= {f"{a}.{end}": f"{b}.{end}" for end in ("weight", "bias")}
    return names


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    if not PARITY.is_file():
        pytest.skip(f"reference values of the official V-JEPA are not at {PARITY}")
    with np.load(PARITY) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def ours(reference: dict[str, torch.Tensor], part: str, names: dict[str, str], kind: str) -> dict[str, torch.Tensor]:
    found = {}
    for official, name in names.items():
        value = reference[f"{kind}/{part}/{official}"]
        if official == "patch_embed.proj.weight":  # Conv3d: (D, C, t, h, w); ours is a linear layer over (t h w C)
            value = value.permute(0, 2, 3, 4, 1).flatten(1)
        found[name] = value
    return found


@pytest.mark.needs_shared
def test_it_is_the_official_code(reference: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder on kept tokens, predictor, targets, loss and every gradient, to 1e-5 of the largest value."""
    backbone = tower()
    objective = JEPA(inner=48, depth=2, heads=4)
    objective.build(backbone)
    backbone.load_state_dict(ours(reference, "encoder", encoder_names(3), "weight"))
    objective.target.load_state_dict(ours(reference, "target_encoder", encoder_names(3), "weight"))
    predictor = ours(reference, "predictor", predictor_names(2), "weight")
    predictor["mask_tokens"] = torch.cat([reference[f"weight/predictor/mask_tokens.{k}"][0] for k in range(2)])
    objective.predictor.load_state_dict(predictor)

    def close(found: torch.Tensor, name: str) -> None:
        wanted = reference[name].view_as(found)
        assert (found - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max().item()), name

    clip = reference["input/clip"].transpose(1, 2)  # theirs is (B, 3, T, H, W)
    places = [tuple(reference[f"input/{side}_indices/{k}"] for side in ("context", "target")) for k in range(2)]
    tokens = backbone.tokenize("video", clip)
    torch.testing.assert_close(
        backbone.tokenizers["video"].positions(tokens.position[:1]), reference["weight/encoder/pos_embed"]
    )
    close(objective.target("video", clip).tokens, "output/target_full")
    for k, (keep, hidden) in enumerate(places):
        context = tokens.take(keep)
        seen = backbone.encode("video", context).tokens
        close(seen, f"output/context/{k}")
        asked = tokens.position.gather(1, hidden.unsqueeze(-1).expand(-1, -1, 3))
        close(objective.predictor(seen, context.position, asked, k), f"output/prediction/{k}")
        close(objective.targets(clip).gather(1, hidden.unsqueeze(-1).expand(-1, -1, 96)), f"output/target/{k}")
    drawn = iter(places)
    monkeypatch.setattr(objective, "draw", lambda *_: next(drawn))
    losses = objective(backbone, {"video": clip, "video_valid": torch.ones(len(clip), dtype=torch.bool)})
    assert losses["loss"].item() == pytest.approx(reference["loss"].item(), rel=1e-5)
    losses["loss"].backward()
    for part, module, names in (
        ("encoder", backbone, encoder_names(3)), ("predictor", objective.predictor, predictor_names(2))
    ):  # fmt: skip
        for name, wanted in ours(reference, part, names, "grad").items():
            found = module.get_parameter(name).grad
            assert (found - wanted).norm() <= 1e-5 * wanted.norm() + 1e-8, name
    for k in range(2):
        wanted = reference[f"grad/predictor/mask_tokens.{k}"].flatten()
        assert (objective.predictor.mask_tokens.grad[k] - wanted).norm() <= 1e-5 * wanted.norm() + 1e-8


@pytest.mark.needs_shared
def test_the_probe_is_the_official_one(reference: dict[str, torch.Tensor]) -> None:
    probe = AttentiveClassifier(96, 7, heads=4)
    block = "pooler.cross_attention_block"
    names = {"pooler.query_tokens": "query"}
    for end in ("weight", "bias"):
        names |= {
            f"{block}.norm1.{end}": f"norm.{end}", f"{block}.xattn.q.{end}": f"q.{end}",
            f"{block}.xattn.kv.{end}": f"kv.{end}", f"{block}.norm2.{end}": f"mlp_norm.{end}",
            f"{block}.mlp.fc1.{end}": f"up.{end}", f"{block}.mlp.fc2.{end}": f"down.{end}",
            f"linear.{end}": f"linear.{end}",
        }  # fmt: skip
    probe.load_state_dict(ours(reference, "probe", names, "weight"))
    found = probe(reference["output/target_full"])
    torch.testing.assert_close(found, reference["output/probe_logits"], rtol=1e-5, atol=1e-5)


def shares(mask: BlockMask, side: int, batch: int, rounds: int) -> tuple[float, ...]:
    """What is seen and what is asked for, as shares of 8 x side x side places."""
    torch.manual_seed(0)
    drawn = [draw_blocks(batch, (8, side, side), mask) for _ in range(rounds)]
    return tuple(float(np.mean([places[part].shape[1] for places in drawn])) / (8 * side**2) for part in (0, 1))


@pytest.mark.parametrize(
    ("mask", "side", "hidden", "seen", "asked"),
    [
        (SHORT_RANGE, 14, 0.63, 0.23, 0.48),
        (LONG_RANGE, 14, 0.81, 0.063, 0.70),
        (SHORT_RANGE, 24, 0.61, 0.25, 0.47),
        (LONG_RANGE, 24, 0.81, 0.068, 0.71),
    ],
)
def test_masks_hide_as_much_as_the_official_ones(
    mask: BlockMask, side: int, hidden: float, seen: float, asked: float
) -> None:
    """Means of simulations of the released code: of single clips, and what is left of 24 that are cut to the fewest."""
    assert shares(mask, side, 1, 1_000)[1] == pytest.approx(hidden, abs=0.01)
    context, target = shares(mask, side, 24, 150)
    assert context == pytest.approx(seen, abs=0.01)
    assert target == pytest.approx(asked, abs=0.015)


@pytest.mark.parametrize("truncate", ["first", "random"])
def test_what_is_hidden_is_not_seen(truncate: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for mask in (SHORT_RANGE, LONG_RANGE, BlockMask(1, 0.2, 0.5)):
        seen, hidden = draw_blocks(5, (4, 6, 6), mask, truncate=truncate, generator=generator)
        for a, b in zip(seen.tolist(), hidden.tolist(), strict=True):
            assert a == sorted(set(a))
            assert b == sorted(set(b))
            assert not set(a) & set(b)
            assert 0 <= min(a + b) <= max(a + b) < 144


@pytest.mark.parametrize("truncate", ["first", "random"])
def test_places_are_cut_to_the_fewest_of_a_process(truncate: str) -> None:
    """Blocks are those of all; what the clips of other processes are like changes nothing."""

    def drawn(part: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        return draw_blocks(6, (4, 6, 6), SHORT_RANGE, truncate=truncate, generator=generator, part=part)

    alone = [drawn(lambda x, i=i: x[i : i + 1]) for i in range(6)]  # nothing is cut
    for rows in ([0, 2, 4], [1, 3, 5]):
        for side, found in enumerate(drawn(lambda x, rows=rows: x[rows])):
            assert found.shape == (3, min(alone[i][side].shape[1] for i in rows))
            for row, places in zip(rows, found.tolist(), strict=True):
                assert set(places) <= set(alone[row][side][0].tolist())


def test_random_truncation_has_no_favourites() -> None:
    """Late places are asked for as often as early ones; with the first kept they are not."""
    late = {}
    for truncate in ("first", "random"):
        generator = torch.Generator().manual_seed(0)
        drawn = [draw_blocks(16, (8, 8, 8), SHORT_RANGE, truncate=truncate, generator=generator) for _ in range(40)]
        asked = torch.cat([hidden.flatten() for _, hidden in drawn])
        late[truncate] = (asked >= 256).float().mean().item()
    assert late["random"] == pytest.approx(0.5, abs=0.01)
    assert late["first"] < 0.45


def test_blocks_that_hide_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="masks all positions"):
        draw_blocks(2, (2, 4, 4), BlockMask(1, 1.0))
    with pytest.raises(ValueError, match="cannot be"):
        BlockMask(0, 0.5)


def small() -> tuple[Backbone, JEPA, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    backbone = tower(24, 2, 2, 4, 64)
    objective = JEPA(inner=12, depth=1, heads=2)
    objective.build(backbone)
    video = torch.randn(3, 4, 3, 64, 64)
    return backbone, objective, {"video": video, "video_valid": torch.tensor([True, True, False])}


def test_the_target_is_a_moving_average() -> None:
    backbone, objective, batch = small()
    before = [p.clone() for p in objective.target.parameters()]
    assert not any(p.requires_grad for p in objective.target.parameters())
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    objective(backbone, batch)["loss"].backward()
    optimizer.step()
    objective.progress = 0.5
    objective.after_step(backbone)
    momentum = 0.998 + 0.002 * 0.5 / 1.25
    assert objective.momentum_at(0.5) == pytest.approx(momentum)
    for old, new, kept in zip(before, backbone.parameters(), objective.target.parameters(), strict=True):
        torch.testing.assert_close(kept, momentum * old + (1 - momentum) * new.detach())


def test_a_clip_without_a_picture_counts_nothing() -> None:
    """Its pixels change neither the loss nor any gradient."""
    backbone, objective, batch = small()
    found = []
    for value in (0.0, 5.0):
        batch["video"][2] = value
        objective.draws = torch.Generator().manual_seed(0)
        backbone.zero_grad()
        losses = objective(backbone, batch)
        losses["loss"].backward()
        found.append((losses["loss"].item(), [p.grad.clone() for p in backbone.parameters()]))
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b)


def test_collapse_shows_in_its_health() -> None:
    backbone, objective, batch = small()
    batch["video_valid"][:] = True
    objective.watched = True
    objective(backbone, batch)
    rich = objective.health["target_rank"].item()
    with torch.no_grad():
        for tower in (backbone, objective.target):
            tower.transformers["video"].norm.weight.zero_()
            tower.transformers["video"].norm.bias.normal_()
    objective(backbone, batch)
    assert objective.health["target_rank"].item() < rich
    assert objective.health["target_spread"].item() < 1e-3


def test_a_tower_with_an_aggregation_token_is_refused() -> None:
    tokenizer = VideoTokenizer(24, (2, 4, 4), patch=(2, 16, 16))
    with pytest.raises(ValueError, match="without an AGG token"):
        JEPA().build(Backbone({"video": tokenizer}, Transformer(24, 1, 2)))


def test_a_predictor_knows_masks_apart() -> None:
    torch.manual_seed(0)
    predictor = Predictor(24, 12, 1, 2)
    torch.nn.init.normal_(predictor.mask_tokens)
    context, places = torch.randn(2, 3, 24), torch.tensor([[[0, 0, 0], [0, 1, 0], [1, 1, 1]]]).expand(2, -1, -1)
    hidden = torch.tensor([[[0, 0, 1], [1, 0, 1]]]).expand(2, -1, -1)
    first, second = (predictor(context, places, hidden, k) for k in (0, 1))
    assert first.shape == (2, 2, 24)
    assert not torch.allclose(first, second)


def test_positions_that_turn_take_the_place_of_those_that_are_added() -> None:
    """V-JEPA 2: what is predicted depends on where it is asked for, by nothing but the angles."""
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(24, (2, 4, 4), patch=(2, 16, 16), positions="none")
    backbone = Backbone({"video": tokenizer}, {"video": Transformer(24, 2, 2, agg=False, rotary="space")})
    objective = JEPA(inner=24, depth=1, heads=2, rotary=True)
    objective.build(backbone)
    assert objective.predictor.positions is None
    # Tokens that begin as zeros, and weights that begin as nearly that, look at everything alike.
    for weight in (objective.predictor.mask_tokens, objective.predictor.transformer.blocks[0].attention.qkv.weight):
        torch.nn.init.normal_(weight)
    video = torch.randn(2, 4, 3, 64, 64)
    tokens = backbone.tokenize("video", video)
    context = tokens.take(torch.arange(8).expand(2, -1))
    seen = backbone.encode("video", context).tokens
    here, there = (tokens.position[:, [at]] for at in (20, 31))
    one, other = (objective.predictor(seen, context.position, at, 0) for at in (here, there))
    assert not torch.allclose(one, other, atol=1e-5)
    losses = objective(backbone, {"video": video, "video_valid": torch.ones(2, dtype=torch.bool)})
    losses["loss"].backward()
    assert losses["loss"].isfinite()
