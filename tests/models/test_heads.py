import pytest
import torch
import torch.nn.functional as F

from vatt.models.heads import HierarchicalProjection

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
