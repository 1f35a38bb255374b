from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import TINY, tiny_backbone
from vatt.evaluation.activations import mean_activations


@pytest.mark.parametrize("shared", [False, True])
def test_mean_activations_are_those_of_the_hidden_nodes(shared: bool) -> None:
    backbone = tiny_backbone(shared).eval()
    text = torch.tensor([[2, 3, 4, 0, 0, 0], [5, 0, 0, 0, 0, 0]])
    found = mean_activations(backbone, "text", text)
    assert found.shape == (2, 64)
    # By hand: one clip after the other without its padding, the second block from the first one's output.
    block_1, block_2 = backbone.encoder("text").blocks
    hidden: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        for ids, length in zip(text, (3, 1), strict=True):
            x = backbone.tokenize("text", ids[None]).x[:, :length]
            x = torch.cat([backbone.tokenizers["text"].embed_agg(backbone.agg["text"], 1), x], dim=1)
            for block, nodes in zip((block_1, block_2), hidden, strict=True):
                middle = x + block.attention(block.attention_norm(x))
                nodes.append(F.gelu(block.up(block.mlp_norm(middle)))[0])
                x = block(x)
    for layer, nodes in zip(found, hidden, strict=True):
        torch.testing.assert_close(torch.from_numpy(layer), torch.cat(nodes).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert not backbone.encoder("text").blocks[0].up._forward_hooks


def test_other_modalities_are_other_pictures() -> None:
    backbone = tiny_backbone(shared=True)
    video = mean_activations(backbone, "video", torch.rand(2, TINY.num_frames, 3, TINY.size, TINY.size))
    audio = mean_activations(backbone, "audio", torch.rand(2, TINY.num_samples))
    assert video.shape == audio.shape == (2, 64)
    assert abs(video - audio).max() > 0.01
