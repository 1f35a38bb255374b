"""Every shipped configuration is built, as the command line would build it, and takes one batch of its shapes."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

from tests.conftest import ROOT
from vatt.cli.finetune import build_finetuning
from vatt.cli.training import VattCLI, build_pretraining
from vatt.datasets import transforms
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.models.backbone import Backbone
from vatt.models.heads import LinearClassifier
from vatt.models.part import from_config
from vatt.models.tokenizers import VideoTokenizer
from vatt.structures import Batch, ClipFormat
from vatt.training.pretrain import check_fit
from vatt.training.sharding import Sharded, is_empty

CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(path for path in CONFIGS.glob("*.yaml") if not path.name.startswith("finetune_"))
LARGE = (
    "pretrain_bbs", "pretrain_mbs", "pretrain_lbs", "pretrain_agnostic_medium", "pretrain_vjepa", "pretrain_4ds",
    "pretrain_videomae", "pretrain_toto",
)  # fmt: skip
FINETUNING = sorted(CONFIGS.glob("finetune_*.yaml"))
PARTS = sorted(CONFIGS.glob("*/**/*.yaml"))
# Those of Toto ask for weights from elsewhere: see test_toto_is_built_without_memory.
BACKBONES = sorted(path for path in CONFIGS.glob("backbone/*.yaml") if not path.name.startswith("toto_"))
MIX = CONFIGS / "data" / "howto100m_audioset.yaml"
TOTO_MIX = CONFIGS / "data" / "toto_mix.yaml"
SHARDED = CONFIGS / "trainer" / "fsdp.yaml"
RELEASED = CONFIGS / "data" / "augment" / "released.yaml"
# Parameters of the backbones without the word embeddings.
PAPER = {
    "pretrain_bbs.yaml": 192_563_244,
    "pretrain_mbs.yaml": 259_460_652,
    "pretrain_lbs.yaml": 410_615_340,
    "pretrain_agnostic_medium.yaml": 161_283_072,
}
VJEPA = {"vjepa_large": 304e6, "vjepa_huge": 632e6, "vjepa_huge_384": 632e6, "vjepa2_large": 304e6}
# Of the sheets of sizes: encoders without what a pretraining adds, in millions.
MASKED = {"4ds_base": 87.4, "4ds_large": 305.5, "4ds_22b": 21_740, "videomae_base": 86.2}
SIZES_4DS = {"small": 22.5, "base": 87.4, "large": 305.5, "huge": 633.7, "giant": 1010, "gigantic": 1850, "e": 3810}
TOTO = {"base": 119.5, "base_32": 119.5, "large": 276.8, "1b": 1147, "mup_192": 8.656, "mup_768": 119.5}
ALONE = {  # what objectives on video alone tell
    "demo_vjepa": {"mask_0", "mask_1"}, "demo_videomae": {"loss"}, "demo_scenes": {"loss"},
    "demo_autoregressive": {"first_frame", "later_frames"},
}  # fmt: skip
SIZES = {"small": 20_816_472, "base": 87_907_416, "medium": 154_958_424, "large": 306_113_112, "xlarge": 534_617_688}


def build(*argv: str) -> VattCLI:
    return build_pretraining(list(argv))


@pytest.fixture
def needs(tmp_path: Path) -> list[str]:
    """What configurations ask of the user: a manifest and a vocabulary."""
    WordVocabulary(["a", "red", "ring"]).save(tmp_path / "vocabulary")
    return [f"--data.manifest={tmp_path}/clips.jsonl", f"--data.vocabulary={tmp_path}/vocabulary"]


def batch_of(format: ClipFormat, clips: int = 2) -> Batch:
    """Random clips of a format."""
    text = torch.zeros(clips, format.num_texts, format.num_words, dtype=torch.int64)
    text[..., 0] = torch.arange(2, clips + 2)[:, None]
    return {
        "id": [str(i) for i in range(clips)],
        "video": torch.rand(clips, format.num_frames, 3, format.size, format.size) * 2 - 1,
        "video_valid": torch.ones(clips, dtype=torch.bool),
        "audio": torch.rand(clips, format.num_samples) * 2 - 1,
        "audio_valid": torch.ones(clips, dtype=torch.bool),
        "text": text,
        "text_valid": torch.ones(clips, format.num_texts, dtype=torch.bool),
        "events": [],
    }


@pytest.mark.parametrize("path", [p for p in EXPERIMENTS if not p.name.startswith(LARGE)], ids=lambda path: path.name)
def test_every_experiment_is_built_and_fits_its_data(path: Path, needs: list[str], tmp_path: Path) -> None:
    terms = ALONE.get(path.stem, {"video_audio", "video_text"})
    cli = build("--config", str(path), *needs[: 1 if path.stem in ALONE else 2], f"--run.folder={tmp_path}")
    assert cli.trainer.max_steps > 0
    cli.model.train()
    losses = cli.model.objective(cli.model.backbone, batch_of(cli.datamodule.format))
    assert terms <= losses.keys()
    losses["loss"].backward()
    idle = [name for name, p in cli.model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_experiments_are_built_without_memory(name: str, needs: list[str], tmp_path: Path) -> None:
    with torch.device("meta"):
        cli = build("--config", str(CONFIGS / name), *needs, f"--run.folder={tmp_path}")
    check_fit(cli.model.backbone, cli.datamodule.format, cli.datamodule.vocabulary)
    assert cli.trainer.max_steps == 500_000
    assert cli.model.optimization.decay == "quarter_cosine"
    assert cli.datamodule.format == ClipFormat()
    parameters = sum(p.numel() for p in cli.model.backbone.parameters())
    words = cli.model.backbone.tokenizers["text"].words.weight.numel()
    assert words == 65_536 * 300
    assert parameters - words == PAPER[name]


@pytest.mark.parametrize("size", VJEPA)
def test_v_jepas_experiments_are_built_without_memory(size: str, needs: list[str], tmp_path: Path) -> None:
    """ViT-L has 304 million parameters and ViT-H 632, the predictor 22."""
    with torch.device("meta"):
        cli = build("--config", str(CONFIGS / f"pretrain_{size}.yaml"), needs[0], f"--run.folder={tmp_path}")
    check_fit(cli.model.backbone, cli.datamodule.format, None)
    assert cli.trainer.max_steps == 90_000
    parameters = sum(p.numel() for p in cli.model.backbone.parameters())
    assert parameters == pytest.approx(VJEPA[size], rel=0.01)
    assert sum(p.numel() for p in cli.model.objective.predictor.parameters()) == pytest.approx(22e6, rel=0.02)


@pytest.mark.parametrize("name", MASKED)
def test_masked_autoencoders_are_built_without_memory(name: str, needs: list[str], tmp_path: Path) -> None:
    given = [needs[0], f"--run.folder={tmp_path}", "--trainer.accelerator=cpu"]
    given += ["--trainer.devices=2"] if name.endswith("22b") else []
    with torch.device("meta"):
        cli = build("--config", str(CONFIGS / f"pretrain_{name}.yaml"), *given)
        losses = cli.model.objective(cli.model.backbone, {k: v.to("meta") for k, v in video_of(cli).items()})
    check_fit(cli.model.backbone, cli.datamodule.format, None)
    assert sum(p.numel() for p in cli.model.backbone.parameters()) / 1e6 == pytest.approx(MASKED[name], rel=0.005)
    assert losses["loss"].shape == ()
    assert isinstance(cli.trainer.strategy, Sharded) == name.endswith("22b")


@pytest.mark.parametrize("size", SIZES_4DS)
def test_4ds_has_the_released_sizes(size: str) -> None:
    with torch.device("meta"):
        model = from_config(yaml.safe_load((CONFIGS / "backbone" / f"4ds_{size}.yaml").read_text()))
        features = model("video", torch.zeros(1, 16, 3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(SIZES_4DS[size], rel=0.005)
    assert features.tokens.shape[1] == 1568


@pytest.mark.parametrize("size", TOTO)
def test_toto_is_built_without_memory(
    size: str, needs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    codebook = transformers.FlavaImageCodebook
    with torch.device("meta"):
        loaded = codebook(transformers.FlavaImageCodebookConfig()), {"missing_keys": []}
    monkeypatch.setattr(codebook, "from_pretrained", lambda *_, **__: copy.deepcopy(loaded))
    given = [needs[0], f"--run.folder={tmp_path}", "--model.pretrained=null"]
    with torch.device("meta"):
        cli = build("--config", str(CONFIGS / f"pretrain_toto_{size}.yaml"), *given)
        losses = cli.model.objective(cli.model.backbone, {k: v.to("meta") for k, v in video_of(cli).items()})
    check_fit(cli.model.backbone, cli.datamodule.format, None)
    trained = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(TOTO[size], rel=0.002)
    assert losses["loss"].shape == ()


def test_mups_halves_belong_together() -> None:
    """Widths, rates, deviations, scores and what is said, of both configurations; the rate is one."""
    found = {}
    for width in (192, 768):
        says = yaml.safe_load((CONFIGS / f"pretrain_toto_mup_{width}.yaml").read_text())["model"]
        tower = yaml.safe_load((CONFIGS / says["backbone"]).read_text())["init_args"]["transformers"]["video"][
            "init_args"
        ]
        objective = yaml.safe_load((CONFIGS / says["objective"]).read_text())["init_args"]
        ratio = says["optimization"]["width_ratio"]
        assert (tower["width"], objective["width_ratio"]) == (width, ratio)
        assert tower["init_std"] == pytest.approx(0.02 * ratio**-0.5)
        assert tower["scaled"] == pytest.approx(math.sqrt(192 / 12) / (width / 12))
        found[ratio] = says["optimization"]["lr"]
    assert found == {1: 2**-7, 4: 2**-7}


@pytest.mark.parametrize("name", ["contrastive", "vjepa", "videomae", "autoregressive"])
def test_ways_to_pretrain_take_other_data(name: str) -> None:
    """As vatt compare --data gives it: with captions, or pictures alone."""
    from vatt.cli.compare import _built
    from vatt.cli.steps import Source

    data = CONFIGS / "data" / "grid_mouth.yaml"
    source = Source("mouths", Path("none"), Path("none"), Path("none"), str(data))
    way = _built(str(CONFIGS / f"demo_{name}.yaml"), source, 0)
    assert way.batch == 128  # two windows of each of 64 clips
    assert way.tokens == (256 if name == "autoregressive" else 128)
    assert way.texts == (name == "contrastive")
    assert 0.3 < way.gflops < 3


def video_of(cli: VattCLI) -> dict[str, torch.Tensor]:
    """One clip of an experiment's format."""
    format = cli.datamodule.format
    video = torch.zeros(1, format.num_frames, 3, format.size, format.size)
    return {"video": video, "video_valid": torch.ones(1, dtype=torch.bool)}


def test_the_papers_mix_and_the_released_augmentation_are_built(needs: list[str], tmp_path: Path) -> None:
    given = ["--data", str(MIX), needs[1], f"--run.folder={tmp_path}", "--data.augment", str(RELEASED)]
    with torch.device("meta"):
        cli = build("--config", str(CONFIGS / "pretrain_bbs.yaml"), *given, "--data.sources.audioset.weight", "2")
    assert {name: source.weight for name, source in cli.datamodule.sources.items()} == {"howto100m": 1, "audioset": 2}
    assert cli.datamodule.augment == transforms.RELEASED


def test_totos_mix_is_built(tmp_path: Path) -> None:
    """On a tower of patches: the weights of Toto's codes would have to be fetched."""
    given = ["--data", str(TOTO_MIX), "--data.manifest=null", "--data.cache=null", f"--run.folder={tmp_path}"]
    given += ["--model.objective.init_args.images=1e-9"]
    cli = build("--config", str(CONFIGS / "demo_autoregressive.yaml"), *given)
    weights = {name: source.weight for name, source in cli.datamodule.sources.items()}
    assert weights == {"imagenet": 0.2, "kinetics600": 0.1, "ego4d": 0.1, "howto100m": 0.6}
    assert cli.model.objective.image_start is not None


@pytest.mark.parametrize("path", FINETUNING, ids=lambda path: path.name)
def test_every_fine_tuning_is_built_and_fits_its_data(path: Path, tmp_path: Path) -> None:
    """On the paper's Base towers, unless it has a tower of its own."""
    (tmp_path / "a.wav").touch()
    parts = ("train", "val", "test", "eval")
    rows = [
        {"path": "a.wav", "id": f"{i}", "start_s": i / 1000, "label": f"class {i // 4}", "split": parts[i % 4]}
        for i in range(12)
    ]
    rows = [row | {"x_fold": 1 + i % 3, "x_fold1": parts[i % 4]} for i, row in enumerate(rows)]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = [f"--data.manifest={tmp_path}/clips.jsonl", f"--run.folder={tmp_path}"]
    own = yaml.safe_load(path.read_text())["model"].get("backbone")
    with torch.device("meta"):
        cli = build_finetuning(
            ["--config", str(path), *given, *([] if own else [f"--model.backbone={CONFIGS}/backbone/bbs.yaml"])]
        )
    model, data = cli.model, cli.datamodule
    assert data.classes.names == ["class 0", "class 1", "class 2"]
    assert len(data.test_clips) > 0
    assert model.optimization.warmup_steps < cli.trainer.max_steps
    side = data.format.size
    shape = {"video": (data.format.num_frames, 3, side, side), "audio": (data.format.num_samples,)}
    with torch.device("meta"):
        logits = model.model(**{model.modality: torch.zeros(2, *shape[model.modality])})["logits"]
    assert logits.shape == (2, 3)


def load(path: Path) -> Any:
    """A part as the command line reads it: files that it names are put in their places."""

    def filled(node: Any, folder: Path) -> Any:
        if isinstance(node, dict):
            return {key: filled(value, folder) for key, value in node.items()}
        return load(folder / node) if isinstance(node, str) and node.endswith(".yaml") else node

    return filled(yaml.safe_load(path.read_text()), path.parent)


@pytest.mark.parametrize(("size", "parameters"), SIZES.items())
def test_the_papers_sizes(size: str, parameters: int) -> None:
    """Table 7 counts a video tower with a classifier of 600 classes: 87.9, 155.0 and 306.1 million."""
    with torch.device("meta"):
        transformer = from_config(load(CONFIGS / "backbone" / "transformer" / f"{size}.yaml"))
        tower = Backbone({"video": VideoTokenizer(transformer.width)}, transformer)
        head = LinearClassifier(transformer.width, 600)
    assert sum(p.numel() for module in (tower, head) for p in module.parameters()) == parameters


@pytest.mark.parametrize("path", BACKBONES, ids=lambda path: path.name)
def test_every_backbone_is_built(path: Path) -> None:
    with torch.device("meta"):
        backbone = from_config(load(path))
    of_video = path.name.startswith(("vit", "4ds_", "videomae_", "causal_"))
    alone = "audio" if path.name == "sounds.yaml" else "video" if of_video else None
    assert backbone.modalities == ((alone,) if alone else ("video", "audio", "text"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("backbone/transformer/*.yaml")), ids=lambda path: path.name)
def test_every_transformer_encodes(path: Path) -> None:
    with torch.device("meta"):
        encoder = from_config(load(path))
        x, _ = encoder(torch.empty(2, 5, encoder.width), torch.ones(2, 5, dtype=torch.bool))
    assert x.shape == (2, 5, encoder.out_width)


def test_a_model_can_be_shared_among_processes(needs: list[str]) -> None:
    here = ["--trainer.accelerator=cpu", "--trainer.devices=2"]
    cli = build("--config", str(CONFIGS / "pretrain_lbs.yaml"), *needs, "--trainer", str(SHARDED), *here)
    assert isinstance(cli.trainer.strategy, Sharded)


@pytest.mark.parametrize("strategy", ["sharded", "{class_path: vatt.training.sharding.Sharded}", "ddp"])
@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_holds_a_shared_model(
    needs: list[str], monkeypatch: pytest.MonkeyPatch, strategy: str, rank: int
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    options = [needs[0], "--trainer.devices=2", f"--trainer.strategy={strategy}"]
    module = build("--config", str(CONFIGS / "demo_vjepa.yaml"), *options).model
    held = [name for name, weights in module.named_parameters() if not weights.is_meta and ".tokenizers." not in name]
    assert is_empty(module) == (rank > 0 and strategy != "ddp")
    assert bool(held) != is_empty(module)


def test_every_part_is_used() -> None:
    """By an experiment, or by a part that is; towers, backbones and objectives may also be there to choose from."""

    def files(path: Path) -> set[Path]:
        def within(node: Any) -> set[Path]:
            if isinstance(node, dict):
                return set().union(*(within(value) for value in node.values()), set())
            if isinstance(node, str) and node.endswith(".yaml"):
                return {path.parent / node} | files(path.parent / node)
            return set()

        return within(yaml.safe_load(path.read_text()))

    used = set().union(*(files(path) for path in [*EXPERIMENTS, *FINETUNING, MIX])) | {
        MIX,
        TOTO_MIX,
        RELEASED,
        SHARDED,
        CONFIGS / "data" / "grid_mouth.yaml",
    }  # built in a test of their own
    assert EXPERIMENTS
    assert {path for path in PARTS if not {"backbone", "objective"} & set(path.parts)} <= used
    assert used <= set(PARTS)


def test_towers_are_put_together_in_a_file_of_ones_own(needs: list[str], tmp_path: Path) -> None:
    """The largest video tower in the place of BBS's."""
    own = (
        (CONFIGS / "backbone/bbs.yaml")
        .read_text()
        .replace("{width: 768, dropout: 0.1}", "{width: 1536, dropout: 0.1}", 1)
    )
    own = own.replace("video: transformer/base.yaml", "video: transformer/xlarge.yaml")
    (tmp_path / "own.yaml").write_text(own.replace("transformer/", f"{CONFIGS}/backbone/transformer/"))
    arguments = [*needs, f"--run.folder={tmp_path}", f"--model.backbone={tmp_path}/own.yaml"]
    with torch.device("meta"):
        cli = build("--config", str(CONFIGS / "pretrain_bbs.yaml"), *arguments)
    assert len(cli.model.backbone.encoder("video").blocks) == 24
    assert cli.model.backbone.width("video") == 1536


def test_shared_and_separate_transformers_differ_by_configuration_alone(needs: list[str], tmp_path: Path) -> None:
    for name, shared in (("demo", False), ("demo_agnostic", True)):
        backbone = build("--config", str(CONFIGS / f"{name}.yaml"), *needs, f"--run.folder={tmp_path}").model.backbone
        assert backbone.shared is shared


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--model.objective.init_args.drop_vidio=0.1", "drop_vidio"),
        ("--model.objective.init_args.drop_video=much", "drop_video"),
        ("--data.format.fpss=3", "fpss"),
        ("--trainer.max_stepz=3", "max_stepz"),
        ("--run.foldr=x", "foldr"),
        ("--model.optimization.lr=fast", "lr"),
    ],
)
def test_a_misspelt_key_or_a_wrong_value_is_named(
    argument: str, said: str, needs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        build("--config", str(CONFIGS / "demo.yaml"), *needs, argument)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_misspelt_key_in_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/objective.yaml").write_text(
        (CONFIGS / "objective/contrastive_small.yaml").read_text().replace("temperature", "temprature")
    )
    experiment = (CONFIGS / "demo.yaml").read_text().replace("objective/contrastive_small.yaml", "parts/objective.yaml")
    for room in ("backbone", "data", "trainer"):
        experiment = experiment.replace(f"{room}/", f"{CONFIGS}/{room}/")
    (tmp_path / "experiment.yaml").write_text(experiment)
    with pytest.raises(SystemExit):
        build("--config", str(tmp_path / "experiment.yaml"))
    assert "temprature" in capsys.readouterr().err
