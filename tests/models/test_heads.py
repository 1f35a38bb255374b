import math

import pytest
import torch
import torch.nn.functional as F

from vatt.models.heads import HierarchicalProjection, JointProjection, LinearClassifier

WIDTHS = {"video": 6, "audio": 5, "text": 4}


def batch_norm(x: torch.Tensor, norm: torch.nn.BatchNorm1d) -> torch.Tensor:
    mean, var = x.mean(0), x.var(0, unbiased=False)
    return (x - mean) / (var + 1e-5).sqrt() * norm.weight + norm.bias


def test_the_head_is_the_released_codes() -> None:
    head = HierarchicalProjection(WIDTHS, video_audio=7, video_text=3)
    for norm in (head.video_to_va[1], head.video_to_va[4], head.va_to_vt[2]):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    pooled = {name: torch.randn(9, width) for name, width in WIDTHS.items()}
    z = head(pooled)
    first = F.relu(batch_norm(pooled["video"] @ head.video_to_va[0].weight.T, head.video_to_va[1]))
    va = batch_norm(first @ head.video_to_va[3].weight.T, head.video_to_va[4])
    vt = batch_norm(F.relu(va) @ head.va_to_vt[1].weight.T, head.va_to_vt[2])
    assert torch.allclose(z["video_va"], va, atol=1e-4)
    assert torch.allclose(z["video_vt"], vt, atol=1e-4)
    assert torch.allclose(z["audio_va"], pooled["audio"] @ head.audio_to_va.weight.T + head.audio_to_va.bias)
    assert torch.allclose(z["text_vt"], pooled["text"] @ head.text_to_vt.weight.T + head.text_to_vt.bias)
    assert {name: x.shape[1] for name, x in z.items()} == {"video_va": 7, "video_vt": 3, "audio_va": 7, "text_vt": 3}


def test_in_evaluation_a_clip_does_not_depend_on_the_batch() -> None:
    head = HierarchicalProjection(WIDTHS, 7, 3)
    head({name: torch.randn(9, width) for name, width in WIDTHS.items()})  # running statistics
    head.eval()
    video = torch.randn(4, 6)
    assert torch.allclose(head({"video": video})["video_vt"][2], head({"video": video[2:3]})["video_vt"][0], atol=1e-6)


def test_only_what_is_given_is_projected() -> None:
    head = HierarchicalProjection({"video": 6, "text": 4}, 7, 3)
    assert set(head({"text": torch.randn(2, 4)})) == {"text_vt"}
    with pytest.raises(ValueError, match="no audio branch"):
        head({"audio": torch.randn(2, 5)})


def test_the_papers_head_has_batch_norm_everywhere_and_no_relu_between_the_spaces() -> None:
    head = HierarchicalProjection(WIDTHS, video_audio=7, video_text=3, paper=True)
    pooled = {name: torch.randn(9, width) for name, width in WIDTHS.items()}
    z = head(pooled)
    vt = batch_norm(z["video_va"] @ head.va_to_vt[1].weight.T, head.va_to_vt[2])
    assert torch.allclose(z["video_vt"], vt, atol=1e-4)
    for name, layers in (("audio_va", head.audio_to_va), ("text_vt", head.text_to_vt)):
        modality = name.split("_")[0]
        assert torch.allclose(z[name], batch_norm(pooled[modality] @ layers[0].weight.T, layers[1]), atol=1e-4)
        assert layers[0].bias is None


def test_the_joint_head_has_one_space() -> None:
    head = JointProjection(WIDTHS, joint=7)
    pooled = {name: torch.randn(9, width) for name, width in WIDTHS.items()}
    z = head(pooled)
    for name in ("video_va", "video_vt", "audio_va", "text_vt"):
        layers = head.to_joint[name.split("_")[0]]
        expected = batch_norm(F.relu(pooled[name.split("_")[0]]) @ layers[1].weight.T, layers[2])
        assert torch.allclose(z[name], expected, atol=1e-4)
    assert torch.equal(z["video_va"], z["video_vt"])
    with pytest.raises(ValueError, match="no audio branch"):
        JointProjection({"video": 6}, 7)({"audio": torch.randn(2, 5)})


def test_classes_exclude_each_other_or_not() -> None:
    one, several = LinearClassifier(6, 5), LinearClassifier(6, 5, multi_label=True)
    logits = torch.randn(3, 5)
    assert torch.allclose(one.probabilities(logits).sum(-1), torch.ones(3))
    assert torch.allclose(several.probabilities(logits), 1 / (1 + torch.exp(-logits)))
    assert one.linear.bias.abs().max() == 0
    assert torch.allclose(several.linear.bias, torch.full((5,), -math.log(4)))
    x = torch.randn(4, 6)
    assert not torch.equal(one(x), one(x))  # dropout
    assert torch.equal(one.eval()(x), one(x))
