from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TINY
from vatt.errors import InputError
from vatt.models.backbone import Backbone
from vatt.models.codebooks import CodeTokenizer, DalleCodes, PatchCodes, VqganCodes
from vatt.models.heads import NoProjection
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT

VQGAN = {
    "embed_dim": 4, "num_embeddings": 16, "latent_channels": 4, "resolution": 32, "base_channels": 32,
    "channel_multiplier": [1, 1, 1], "num_res_blocks": 1,
}  # fmt: skip


def test_dalle_codes_are_those_of_flava() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    codebook = DalleCodes(config={"hidden_size": 8, "vocab_size": 32})
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    pixels = transformers.FlavaImageProcessor().map_pixels((pictures + 1) / 2)
    assert torch.equal(codebook(pictures), codebook.model.get_codebook_indices(pixels))
    assert codebook(pictures).shape == (2, 4, 4)
    assert (codebook.codes, codebook.stride) == (32, 8)
    assert not any(parameter.requires_grad for parameter in codebook.parameters())


def test_learned_patches_are_the_nearest() -> None:
    torch.manual_seed(0)
    colours = torch.rand(5, 3) * 2 - 1
    which = torch.randint(5, (40, 4, 4))
    pictures = colours[which].permute(0, 3, 1, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    codebook = PatchCodes(8, 8)
    codebook.fit(pictures, generator=torch.Generator().manual_seed(0))
    found = codebook(pictures)
    shown = codebook.centres[found].view(40, 4, 4, 8, 8, 3).permute(0, 5, 1, 3, 2, 4).reshape(40, 3, 32, 32)
    assert (shown - pictures).abs().max() < 1e-5
    with pytest.raises(InputError, match="too few for 8 codes"):
        codebook.fit(pictures[:1, :, :16, :8])


def test_codes_of_a_vqgan_are_those_of_chameleon() -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    codebook = VqganCodes(config=VQGAN)
    for parameter in codebook.model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    pictures = torch.rand(2, 3, 32, 16) * 2 - 1
    found = codebook(pictures)
    assert torch.equal(found.flatten(), codebook.model.encode(pictures).image_tokens.flatten())
    assert found.shape == (2, 8, 4)
    assert torch.equal(codebook(pictures[1:])[0], found[1])
    assert len(found.unique()) > 1
    assert (codebook.codes, codebook.stride) == (16, 4)
    assert not any(parameter.requires_grad for parameter in codebook.parameters())


@pytest.mark.parametrize(("kind", "config"), [(DalleCodes, {"hidden_size": 8, "vocab_size": 32}), (VqganCodes, VQGAN)])
def test_pretrained_codes_are_loaded_whole_and_saved_with_a_model(
    kind: type[DalleCodes] | type[VqganCodes], config: dict[str, object], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    kind(config=config).model.save_pretrained(tmp_path / "codes")
    codebook = kind(str(tmp_path / "codes"))
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    tokenizer = CodeTokenizer(16, codebook, (4, 16 // codebook.stride, 16 // codebook.stride))
    trunk = Transformer(16, 1, 2, causal=True, rotary="sequence")
    model = VATT(Backbone({"video": tokenizer}, {"video": trunk}), NoProjection(), TINY)
    model.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "codes").iterdir():
        file.unlink()
    again = VATT.from_pretrained(tmp_path / "model").backbone.tokenizers["video"].codebook
    assert torch.equal(again(pictures), codebook(pictures))


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    VqganCodes(config=VQGAN).model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["quantize.embedding.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, the first quantize\.embedding\.weight"):
        VqganCodes(str(tmp_path))
    for given in ({}, {"pretrained": str(tmp_path), "config": VQGAN}):
        with pytest.raises(ValueError, match="give either"):
            VqganCodes(**given)  # type: ignore[arg-type]


def test_learned_patches_are_kept_in_a_file(tmp_path: Path) -> None:
    codes = PatchCodes(8, 4)
    with pytest.raises(InputError, match="not learned"):
        codes.check()
    codes.fit(torch.rand(4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    codes.save(tmp_path / "codes.safetensors")
    again = PatchCodes(pretrained=str(tmp_path / "codes.safetensors"))
    again.check()
    assert (again.codes, again.stride) == (8, 4)
    assert torch.equal(again.centres, codes.centres)
    assert again.init_args == {"codes": 8, "stride": 4, "pretrained": None}
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds no patches"):
        PatchCodes(pretrained=str(tmp_path / "other.safetensors"))
