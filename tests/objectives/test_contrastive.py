from __future__ import annotations

import functools
import math

import pytest
import torch

from tests.conftest import SMALL_HEAD, tiny_backbone, tiny_batch
from vatt.errors import InputError
from vatt.models.heads import HierarchicalProjection, JointProjection
from vatt.objectives.contrastive import COLDEST, Contrastive
from vatt.objectives.losses import mil_nce, nce


def made(shared: bool = False, **options: object) -> tuple:
    backbone, objective = tiny_backbone(shared), Contrastive(**{"head": SMALL_HEAD, **options})  # type: ignore[arg-type]
    objective.build(backbone)
    return backbone, objective


@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_is_what_its_parts_say(shared: bool) -> None:
    backbone, objective = made(shared, drop_video=0.0, drop_audio=0.0, video_audio_weight=3.0, form="symmetric")
    batch = tiny_batch(5)
    batch["audio_valid"][1] = False
    batch["text_valid"][2] = False
    out = objective(backbone, batch)
    pooled = {"video": backbone("video", batch["video"]).pooled, "audio": backbone("audio", batch["audio"]).pooled}
    text = torch.stack([backbone("text", batch["text"][:, k]).pooled for k in range(2)], dim=1)
    objective.projection.train()
    z = objective.projection({**pooled, "text": text.flatten(0, 1)})
    va = nce(z["video_va"], z["audio_va"], 0.07, None, batch["audio_valid"], "symmetric")
    vt = mil_nce(z["video_vt"], z["text_vt"].view(5, 2, 8), 0.07, None, batch["text_valid"], "symmetric")
    assert out["video_audio"].item() == pytest.approx(va.item(), rel=1e-4)
    assert out["video_text"].item() == pytest.approx(vt.item(), rel=1e-4)
    assert out["loss"].item() == pytest.approx((3 * va + vt).item() / 4, rel=1e-4)
    assert out["tokens"] == 5 * (1 + 8) + 5 * (1 + 8) + 10 * (1 + 6)


def test_droptoken_is_for_training_and_not_for_text() -> None:
    backbone, objective = made(drop_video=0.5, drop_audio=0.25)
    batch = tiny_batch(3)
    assert objective(backbone, batch)["tokens"] == 3 * (1 + 4) + 3 * (1 + 6) + 6 * (1 + 6)
    assert objective(backbone, batch)["loss"] != objective(backbone, batch)["loss"]
    backbone.eval()
    objective.eval()
    assert objective(backbone, batch)["tokens"] == 3 * (1 + 8) + 3 * (1 + 8) + 6 * (1 + 6)
    assert objective(backbone, batch)["loss"] == objective(backbone, batch)["loss"]


@pytest.mark.parametrize("gone", ["audio", "text"])
def test_a_missing_modality_leaves_its_term_out(gone: str) -> None:
    backbone, objective = made(drop_video=0.0, drop_audio=0.0)
    batch = tiny_batch(4)
    whole = objective(backbone, batch)
    term = {"audio": "video_audio", "text": "video_text"}[gone]
    other = {"audio": "video_text", "text": "video_audio"}[gone]
    masked = {**batch, f"{gone}_valid": torch.zeros_like(batch[f"{gone}_valid"])}
    absent = {k: v for k, v in batch.items() if not k.startswith(gone)}
    for case in (masked, absent):
        out = objective(backbone, case)
        assert out[term].item() == 0
        assert out[other].item() == pytest.approx(whole[other].item(), rel=1e-5)
        out["loss"].backward()
        parts = backbone.transformers[gone], backbone.tokenizers[gone], objective.projection.branches[gone][0][1]
        grads = [p.grad for part in parts for p in part.parameters()] + [backbone.agg[gone].grad]
        assert all(g is None or g.abs().max() == 0 for g in grads)


def test_clips_without_a_picture_change_nothing_for_the_others() -> None:
    backbone, objective = made(drop_video=0.0, drop_audio=0.0)
    batch = tiny_batch(5)
    four = {k: v[:4] if hasattr(v, "__getitem__") else v for k, v in batch.items()}
    batch["video_valid"][4] = batch["audio_valid"][4] = False
    batch["text_valid"][4] = False
    batch["video"][4] = 0
    with_one, without = objective(backbone, batch), objective(backbone, four)
    for name in ("video_audio", "video_text"):
        assert with_one[name].item() == pytest.approx(without[name].item(), rel=1e-4)


def test_every_parameter_is_trained() -> None:
    for shared in (False, True):
        backbone, objective = made(shared)
        objective(backbone, tiny_batch(6))["loss"].backward()
        for name, parameter in [*backbone.named_parameters(), *objective.named_parameters()]:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_embedding_takes_all_texts_of_each_clip() -> None:
    backbone, objective = made()
    backbone.eval()
    objective.eval()
    batch = tiny_batch(3)
    z = objective.embed(backbone, batch)
    assert {name: tuple(x.shape) for name, x in z.items()} == {
        "video_va": (3, 12),
        "video_vt": (3, 8),
        "audio_va": (3, 12),
        "text_vt": (3, 2, 8),
    }
    for i in range(2):
        alone = objective.projection({"text": backbone("text", batch["text"][:, i]).pooled})["text_vt"]
        assert torch.allclose(z["text_vt"][:, i], alone, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_pairs_are_learned_by_heart(shared: bool) -> None:
    """Random clips have nothing in common but that they belong together: a collapsed model cannot pass."""
    torch.manual_seed(0)
    backbone, objective = made(shared, drop_video=0.25, drop_audio=0.25, form="symmetric")
    batch = tiny_batch(8)
    batch["text"] = torch.randint(1, 11, (8, 1, 6)).repeat(1, 2, 1)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *objective.parameters()], lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        objective(backbone, batch)["loss"].backward()
        optimizer.step()
    z = objective.embed(backbone, batch)
    z["text_vt"] = z["text_vt"][:, 0]
    for a, b in (("text_vt", "video_vt"), ("audio_va", "video_va")):
        similarity = torch.nn.functional.normalize(z[a], dim=1) @ torch.nn.functional.normalize(z[b], dim=1).T
        assert similarity.argmax(dim=1).tolist() == list(range(8)), (a, b)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Contrastive(video_audio_weight=0.0, video_text_weight=0.0)
    with pytest.raises(ValueError, match=r"must be finite and at least 0, .* not -1.0 and 2.0"):
        Contrastive(video_audio_weight=-1.0, video_text_weight=2.0)
    for drop in (1.0, 2.0, -1.0, math.nan):
        with pytest.raises(InputError, match=f"drop_audio must lie in \\[0, 1\\), not {drop}"):
            Contrastive(drop_audio=drop)
    for option in ("statistics", "form", "mean", "keep_rule"):
        with pytest.raises(ValueError, match=f"{option} must be .* not 'best'"):
            Contrastive(**{option: "best"})
    with pytest.raises(ValueError, match="head must be a class of"):
        Contrastive("joint")  # type: ignore[arg-type]
    backbone, objective = made()
    with pytest.raises(RuntimeError, match="has its layers already"):
        objective.build(backbone)
    for wrong in (0.0, {"video_audio": 0.1}, {"video_audio": 0.1, "video_text": -1.0}):
        with pytest.raises(ValueError, match="temperature must be above 0, one number or one each"):
            Contrastive(temperature=wrong)


def test_each_pair_learns_a_temperature_of_its_own() -> None:
    first = {"video_audio": 0.1, "video_text": 0.05}
    backbone, objective = made(temperature=first, learn_temperature=True, drop_video=0.0, drop_audio=0.0)
    out = objective(backbone, tiny_batch(5))
    for name, value in first.items():
        assert out[f"temperature_{name}"].item() == pytest.approx(value, rel=1e-5)
    out["video_text"].backward()
    assert objective.log_temperature["video_text"].grad != 0
    assert objective.log_temperature["video_audio"].grad is None
    with torch.no_grad():
        objective.log_temperature["video_text"].fill_(-100.0)
    objective.after_step(backbone)
    assert objective.temperature("video_text").item() == pytest.approx(COLDEST)
    assert objective.temperature("video_audio").item() == pytest.approx(0.1)


def test_fixed_temperatures_are_no_parameters() -> None:
    backbone, objective = made(temperature={"video_audio": 0.1, "video_text": 0.05}, drop_video=0.0, drop_audio=0.0)
    assert not [name for name, _ in objective.named_parameters() if "temperature" in name]
    same, batch = made(temperature=0.05, drop_video=0.0, drop_audio=0.0), tiny_batch(5)
    same[1].load_state_dict(objective.state_dict())
    same[0].load_state_dict(backbone.state_dict())
    a, b = objective(backbone, batch), same[1](same[0], batch)
    assert a["video_text"].item() == pytest.approx(b["video_text"].item(), rel=1e-5)
    assert a["video_audio"].item() != pytest.approx(b["video_audio"].item(), rel=1e-3)


def test_heads_are_chosen_by_class() -> None:
    assert isinstance(made()[1].head(), HierarchicalProjection)
    assert made(head=functools.partial(HierarchicalProjection, paper=True))[1].head().init_args["paper"]
    backbone, objective = tiny_backbone(), Contrastive(JointProjection)
    objective.build(backbone)
    assert isinstance(objective.head(), JointProjection)
    objective(backbone, tiny_batch(4))["loss"].backward()


def test_sentences_count_one_by_one_or_with_their_clip() -> None:
    """The released code has one validity for all texts of a clip: an empty sentence is a positive like any other."""
    batch = tiny_batch(4)
    batch["text"][0, 1], batch["text_valid"][0, 1] = 0, False
    whole = {**batch, "text_valid": torch.ones(4, 2, dtype=torch.bool)}
    backbone, objective = made(drop_video=0.0, drop_audio=0.0)
    official = Contrastive(SMALL_HEAD, drop_video=0.0, drop_audio=0.0, per_sentence=False)
    official.build(backbone)
    official.load_state_dict(objective.state_dict())
    each, together, filled = (
        o(backbone, b)["video_text"].item() for o, b in ((objective, batch), (official, batch), (objective, whole))
    )
    assert together == pytest.approx(filled, rel=1e-6)
    assert each != pytest.approx(filled, rel=1e-4)
    none = {**batch, "text_valid": torch.zeros(4, 2, dtype=torch.bool)}
    assert official(backbone, none)["video_text"].item() == 0


@pytest.mark.parametrize("real", [4, 1, 0])
def test_what_is_not_valid_does_not_enter_the_batch_statistics(real: int) -> None:
    """Of a head that normalises audio and text: not its values, and of fewer than two rows not even their number."""
    backbone, objective = tiny_backbone().eval(), Contrastive(JointProjection, drop_video=0.0, drop_audio=0.0)
    objective.build(backbone)
    batch = tiny_batch(5)
    batch["audio_valid"][real:] = False
    norm = objective.projection.to_joint["audio"][2]
    first = {name: value.clone() for name, value in norm.named_buffers()}
    a = objective(backbone, batch)["video_audio"].item()
    after = {name: value.clone() for name, value in norm.named_buffers()}
    norm.load_state_dict(norm.state_dict() | first)
    batch["audio"][real:] = 100.0
    assert objective(backbone, batch)["video_audio"].item() == pytest.approx(a, rel=1e-5)
    assert all(torch.allclose(value, after[name]) for name, value in norm.named_buffers())
    assert (after["num_batches_tracked"] == 1) == (real > 1)
    assert objective.projection.training


def test_the_released_statistics_are_of_all_rows() -> None:
    backbone = tiny_backbone().eval()
    objective = Contrastive(JointProjection, statistics="all", drop_video=0.0, drop_audio=0.0)
    objective.build(backbone)
    batch = tiny_batch(5)
    batch["audio_valid"][4] = False
    a = objective(backbone, batch)["video_audio"].item()
    batch["audio"][4] = 100.0
    assert objective(backbone, batch)["video_audio"].item() != pytest.approx(a, rel=1e-3)


def test_the_released_keep_count_is_a_share_of_the_tables() -> None:
    """On a clip of twice the length: half of its tokens, or half of the tables' places."""
    batch = tiny_batch(3)
    batch["video"], batch["audio"] = batch["video"].repeat(1, 2, 1, 1, 1), batch["audio"].repeat(1, 2)
    text = 6 * (1 + 6)
    for rule, kept in (("tokens", 8), ("table", 4)):
        backbone, objective = made(drop_video=0.5, drop_audio=0.5, keep_rule=rule)
        assert objective(backbone, batch)["tokens"] == 3 * (1 + kept) * 2 + text


def test_permuting_the_clips_permutes_nothing_else() -> None:
    backbone, objective = made(drop_video=0.0, drop_audio=0.0)
    batch, order = tiny_batch(5), torch.randperm(5)
    batch["text_valid"][1] = False
    moved = {k: v[order] if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    a, b = objective(backbone, batch), objective(backbone, moved)
    for name in ("loss", "video_audio", "video_text"):
        assert a[name].item() == pytest.approx(b[name].item(), rel=1e-5)
    backbone.eval()
    objective.eval()
    a, b = objective.embed(backbone, batch), objective.embed(backbone, moved)
    assert all(torch.allclose(a[name][order], b[name], atol=1e-5) for name in a)


def test_a_batch_of_one_clip_is_a_loss_without_negatives() -> None:
    backbone, objective = made(drop_video=0.0, drop_audio=0.0)
    out = objective(backbone, tiny_batch(1))
    assert out["video_audio"].item() == pytest.approx(0.6931, abs=1e-3)
    out["loss"].backward()
