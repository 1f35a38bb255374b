"""Next-token prediction: equal to Hugging Face's Llama, and no token sees what it is asked for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vatt.errors import InputError
from vatt.models.backbone import Backbone
from vatt.models.codebooks import Codebook, CodeTokenizer, PatchCodes
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.autoregressive import Autoregressive
from vatt.training.optim import Optimization, make_optimizer

LLAMA = {
    "norm": "rms", "activation": "swiglu", "bias": False, "rotary": "sequence", "causal": True, "norm_eps": 1e-5,
}  # fmt: skip


def random_codes() -> PatchCodes:
    codes = PatchCodes(16, 8)
    codes.centres.uniform_(-1, 1)
    return codes


def tower(codebook: Codebook | None = None, width: int = 24, depth: int = 2, **how: object) -> Backbone:
    tokenizer = CodeTokenizer(width, codebook or random_codes(), (2, 2, 2))
    return Backbone({"video": tokenizer}, {"video": Transformer(width, depth, 2, 40, **{**LLAMA, **how})})  # type: ignore[arg-type]


def batch(clips: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"video": torch.rand(clips, 2, 3, 16, 16) * 2 - 1, "video_valid": torch.ones(clips, dtype=torch.bool)}


@pytest.mark.parametrize(("base", "tied"), [(10_000.0, True), (50_000.0, False)])
def test_it_is_llama(base: float, tied: bool) -> None:
    """Logits and the loss, with the same random weights; the AGG token is the embedding of Llama's first token."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=18, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        rms_norm_eps=1e-5, tie_word_embeddings=tied, rope_parameters={"rope_type": "default", "rope_theta": base},
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    backbone = tower(rotary_base=base)
    objective = Autoregressive(tied=tied)
    objective.build(backbone)
    weights = theirs.state_dict()
    ours = {
        "tokenizers.video.codes.weight": weights["model.embed_tokens.weight"][:17],
        "agg.video": weights["model.embed_tokens.weight"][17],
        "transformers.video.norm.weight": weights["model.norm.weight"],
        "tokenizers.video.codebook.centres": backbone.state_dict()["tokenizers.video.codebook.centres"],
    }
    for i in range(2):
        a, b = f"transformers.video.blocks.{i}", f"model.layers.{i}"
        ours |= {
            f"{a}.attention_norm.weight": weights[f"{b}.input_layernorm.weight"],
            f"{a}.attention.qkv.weight": torch.cat([weights[f"{b}.self_attn.{x}_proj.weight"] for x in "qkv"]),
            f"{a}.attention.out.weight": weights[f"{b}.self_attn.o_proj.weight"],
            f"{a}.mlp_norm.weight": weights[f"{b}.post_attention_layernorm.weight"],
            f"{a}.up.weight": weights[f"{b}.mlp.up_proj.weight"],
            f"{a}.gate.weight": weights[f"{b}.mlp.gate_proj.weight"],
            f"{a}.down.weight": weights[f"{b}.mlp.down_proj.weight"],
        }
    backbone.load_state_dict(ours)
    if not tied:
        objective.scores.weight.data = weights["lm_head.weight"][:17]
    clips = batch()
    ids = backbone.tokenizers["video"].patchify(clips["video"]).x.squeeze(-1)
    with torch.no_grad():
        wanted = theirs(torch.cat([torch.full((3, 1), 17), ids], dim=1)).logits[..., :17]
        features = backbone.encode("video", backbone.tokenize("video", clips["video"]))
        said = torch.cat([features.agg.unsqueeze(1), features.tokens], dim=1)
        matrix = ours["tokenizers.video.codes.weight"] if tied else weights["lm_head.weight"][:17]
        torch.testing.assert_close(F.linear(said, matrix), wanted, rtol=1e-5, atol=1e-5)
        asked = torch.cat([ids, torch.full((3, 1), 16)], dim=1)
        loss = F.cross_entropy(wanted.flatten(0, 1), asked.flatten())
        assert objective(backbone, clips)["loss"].item() == pytest.approx(loss.item(), rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("predicted", ["codes", "patches"])
def test_no_token_sees_what_follows(predicted: str) -> None:
    if predicted == "codes":
        backbone = tower()
    else:
        tokenizer = VideoTokenizer(24, (2, 2, 2), (1, 8, 8), positions="none")
        backbone = Backbone({"video": tokenizer}, {"video": Transformer(24, 2, 2, 40, **LLAMA)})  # type: ignore[arg-type]
    objective = Autoregressive(predicted)  # type: ignore[arg-type]
    objective.build(backbone)
    video = batch(2)["video"]
    other = video.clone()
    other[:, 1] = -other[:, 1]  # the second frame: tokens 4 to 7
    errors = []
    for clip in (video, other):
        patches = backbone.tokenizers["video"].patchify(clip)
        features = backbone.encode("video", backbone.tokenize("video", clip))
        said = torch.cat([features.agg.unsqueeze(1), features.tokens], dim=1)
        errors.append(objective.errors(backbone, said, patches.x))
        assert errors[-1].shape == (2, 9 if predicted == "codes" else 8)
    torch.testing.assert_close(errors[0][:, :4], errors[1][:, :4])
    assert not torch.allclose(errors[0][:, 4:8], errors[1][:, 4:8])


def test_it_learns_a_sequence() -> None:
    """Frames that follow each other in a circle: after the first all is known."""
    torch.manual_seed(0)
    codebook = PatchCodes(4, 8)
    codebook.centres.copy_(torch.linspace(-0.9, 0.9, 4)[:, None].expand(-1, 192))
    tokenizer = CodeTokenizer(24, codebook, (6, 1, 1))
    backbone = Backbone({"video": tokenizer}, {"video": Transformer(24, 2, 2, 40, **LLAMA)})  # type: ignore[arg-type]
    objective = Autoregressive()
    objective.build(backbone)
    optimizer = torch.optim.Adam([*backbone.parameters(), *objective.parameters()], 3e-3)
    for _ in range(150):
        ids = (torch.randint(4, (32, 1)) + torch.arange(6)) % 4
        video = codebook.centres[ids][:, :, 0, None, None, None].expand(-1, -1, 3, 8, 8)
        losses = objective(backbone, {"video": video, "video_valid": torch.ones(32, dtype=torch.bool)})  # type: ignore[typeddict-item]
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["first_frame"].item() == pytest.approx(math.log(4), abs=0.15)
    assert losses["later_frames"] < 0.05
    assert losses["loss"].item() == pytest.approx(math.log(4) / 7, abs=0.05)  # six codes and the end


def test_the_pooled_feature_is_of_all_tokens() -> None:
    backbone, clips = tower(), batch()
    features = backbone("video", clips["video"])
    torch.testing.assert_close(features.pooled, features.tokens.mean(dim=1))
    assert features.agg.shape == (3, 24)
    torch.testing.assert_close(features.agg[0], features.agg[1])  # it saw nothing


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="codes were not learned"):
        Autoregressive().build(tower(PatchCodes(16, 8)))
    with pytest.raises(ValueError, match="causal=True"):
        Autoregressive().build(tower(causal=False))
    video = Backbone({"video": VideoTokenizer(24, (2, 2, 2), (2, 8, 8))}, {"video": Transformer(24, 1, 2, causal=True)})
    with pytest.raises(ValueError, match="CodeTokenizer, not of a VideoTokenizer"):
        Autoregressive().build(video)
    with pytest.raises(ValueError, match="one frame long"):
        Autoregressive("patches").build(video)
    with pytest.raises(ValueError, match="cannot be cut into codes"):
        tower().tokenizers["video"].patchify(torch.zeros(1, 2, 3, 12, 16))


@pytest.mark.parametrize(
    ("width", "depth", "mlp", "millions"), [(768, 12, 3072, 119.5), (1024, 16, 4096, 276.8), (2048, 22, 5632, 1147)]
)
def test_sizes_have_as_many_parameters_as_the_paper_says(width: int, depth: int, mlp: int, millions: float) -> None:
    """120, 280 and 1,100 millions; the exact numbers are those of the sheet of sizes, with tied embeddings."""
    with torch.device("meta"):
        trunk = Transformer(width, depth, 16, mlp, **LLAMA)  # type: ignore[arg-type]
    count = sum(parameter.numel() for parameter in trunk.parameters()) + 8192 * width
    assert count / 1e6 == pytest.approx(millions, rel=0.002)


def test_one_learning_rate_serves_all_widths() -> None:
    """muP: what a few steps of one rate change in the logits is alike at every width; without it they change more."""

    def change(width: int, mup: bool) -> float:
        torch.manual_seed(0)
        ratio = width / 32 if mup else 1.0
        how = {"init_std": 0.1 * ratio**-0.5, "scaled": 4 / (width / 2)} if mup else {"init_std": 0.1}
        tokenizer = CodeTokenizer(width, random_codes(), (2, 2, 2))
        encoder = Transformer(width, 2, 2, 2 * width, **{**LLAMA, **how})  # type: ignore[arg-type]
        backbone = Backbone({"video": tokenizer}, {"video": encoder})
        objective = Autoregressive(width_ratio=ratio)
        objective.build(backbone)
        optimization = Optimization(lr=2**-7, warmup_steps=0, decay="constant", width_ratio=ratio)
        optimizer, _ = make_optimizer(torch.nn.ModuleList([backbone, objective]), optimization, 10)
        clips = batch(8)

        def logits() -> torch.Tensor:
            with torch.no_grad():
                said = backbone("video", clips["video"]).tokens / ratio
                return F.linear(said, tokenizer.codes.weight)

        before = logits()
        for _ in range(4):
            optimizer.zero_grad()
            objective(backbone, clips)["loss"].backward()  # type: ignore[arg-type]
            optimizer.step()
        return (logits() - before).abs().mean().item()

    narrow, wide = (change(width, True) for width in (32, 256))
    assert wide == pytest.approx(narrow, rel=0.5)
    assert change(256, False) > 2 * wide


def test_some_clips_become_sequences_of_images() -> None:
    """Frames of any clip, that begin with a token of their own; what is drawn is the same for the same numbers."""
    backbone, objective = tower(), Autoregressive(images=0.5)
    objective.build(backbone)
    video = torch.arange(8 * 2).view(8, 2, 1, 1, 1).float().expand(-1, -1, 3, 16, 16) / 16 - 0.5
    valid = torch.tensor([True] * 7 + [False])
    drawn = []
    for _ in range(2):
        objective.draws = torch.Generator().manual_seed(0)
        drawn.append(objective.with_images(video, valid))
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    mixed, is_image = drawn[0]
    assert 0 < int(is_image.sum()) < 7
    assert not is_image[7]
    assert torch.equal(mixed[~is_image], video[~is_image])
    known = set(video[valid].flatten(0, 1)[:, 0, 0, 0].tolist())
    assert set(mixed[is_image].flatten(0, 1)[:, 0, 0, 0].tolist()) <= known
    losses = objective(backbone, {"video": video, "video_valid": valid})  # type: ignore[typeddict-item]
    losses["loss"].backward()
    assert objective.image_start.grad.abs().sum() > 0
    assert backbone.agg["video"].grad.abs().sum() > 0
    with pytest.raises(ValueError, match="from 0 to 1"):
        Autoregressive(images=2)


@pytest.mark.parametrize(("clips", "frames"), [(8, 4), (4, 4), (3, 8)])
def test_images_of_a_sequence_are_of_different_clips(clips: int, frames: int) -> None:
    """As long as there are any; then each comes as often as the others."""
    objective = Autoregressive(images=1)
    objective.build(tower())
    objective.draws = torch.Generator().manual_seed(0)
    video = torch.arange(clips).view(clips, 1, 1, 1, 1).float().expand(-1, frames, 3, 8, 8)
    video = video + torch.rand(clips, frames, 1, 1, 1) / 4  # not pictures
    for sequence in objective.with_images(video, torch.ones(clips, dtype=torch.bool))[0]:
        _, counts = sequence[:, 0, 0, 0].floor().unique(return_counts=True)
        assert len(counts) == min(clips, frames)
        assert counts.max() <= -(-frames // clips)


def test_a_share_of_all_clips_becomes_images_however_small_the_batch() -> None:
    objective = Autoregressive(images=0.2)
    objective.build(tower())
    objective.draws = torch.Generator().manual_seed(0)
    video, valid = torch.rand(2, 2, 3, 16, 16), torch.ones(2, dtype=torch.bool)
    shares = [objective.with_images(video, valid)[1].float().mean().item() for _ in range(500)]
    assert sum(shares) / len(shares) == pytest.approx(0.2, abs=0.04)


def test_pictures_become_sequences_of_pictures() -> None:
    objective = Autoregressive(images=0.01)
    objective.build(tower())
    objective.draws = torch.Generator().manual_seed(0)
    number = torch.tensor([[0, 1], [2, 2], [3, 4], [5, 5], [6, 6], [7, 8]])  # of the frames of each clip
    video = number.view(6, 2, 1, 1, 1).float().expand(-1, -1, 3, 8, 8)
    seen = set()
    for _ in range(50):
        mixed, is_image = objective.with_images(video, torch.tensor([True] * 4 + [False, True]))
        assert is_image.tolist()[:5] == [is_image[0], True, is_image[2], True, False]
        seen |= set(mixed[[1, 3], :, 0, 0, 0].flatten().tolist())
    assert seen == {2.0, 5.0}
