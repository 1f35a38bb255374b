from __future__ import annotations

import csv
import functools
import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.conftest import SMALL_HEAD, TINY, WORDS, tiny_backbone, tiny_batch
from tests.datasets.loading.crashing import crash_on
from tests.training.runs import logged, train
from vatt.datasets.manifest import read_manifest
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.models.heads import HierarchicalProjection
from vatt.models.vatt import VATT
from vatt.objectives.contrastive import Contrastive
from vatt.training.optim import Optimization
from vatt.training.pretrain import ConfigMismatch, PretrainModule, check_fit


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(corpus: Path, tmp_path: Path, num_workers: int) -> None:
    """Stopped between two checkpoints: steps 4 and 5 are done again, with the same clips, drops and losses."""
    _, whole = train(corpus, tmp_path / "whole", steps=10, num_workers=num_workers)
    train(corpus, tmp_path / "parts", steps=10, stop_after=5, num_workers=num_workers)
    assert not (tmp_path / "parts" / "model").exists()
    trainer, resumed = train(corpus, tmp_path / "parts", steps=10, resume=True, num_workers=num_workers)
    assert trainer.global_step == 10
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)
    for name in ("train/loss", "train/video_text", "val/rsum", "lr-AdamW/pg1"):
        assert logged(tmp_path / "parts", name) == logged(tmp_path / "whole", name), name
    assert len(logged(tmp_path / "whole", "train/loss")) == 10


def test_what_is_logged(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=4)
    for name in ("train/loss", "train/video_audio", "train/video_text", "speed/data_wait", "speed/tokens_per_s"):
        assert logged(tmp_path, name), name
    for direction in ("text_to_video", "video_to_text", "audio_to_video", "video_to_audio"):
        for key in ("R@1", "R@5", "R@10", "MedR"):
            assert list(logged(tmp_path, f"val/{direction}_{key}")) == [3]
    assert logged(tmp_path, "val/text_to_video_gallery") == {3: 4.0}
    # The mean of the terms is what is minimised.
    terms = [logged(tmp_path, f"train/{name}")[2] for name in ("video_audio", "video_text")]
    assert logged(tmp_path, "train/loss")[2] == pytest.approx(sum(terms) / 2, rel=1e-5)
    # The vocabulary has a word for most, but not for everything, and captions have more than TINY's six words.
    assert logged(tmp_path, "data/truncated")
    assert (tmp_path / "data_events.csv").read_text().startswith("when,kind,id,path,reason\n")
    assert list(tmp_path.glob("tensorboard/events*"))


def test_a_bare_folder_of_videos_is_trained_on(corpus: Path, tmp_path: Path) -> None:
    """Without any text there is the video-audio term alone."""
    train(corpus, tmp_path, steps=4, text=False)
    losses = logged(tmp_path, "train/loss")
    assert len(losses) == 4
    assert losses[0] == pytest.approx(logged(tmp_path, "train/video_audio")[0] / 2, rel=1e-5)
    assert logged(tmp_path, "val/audio_to_video_R@1")
    assert not logged(tmp_path, "val/text_to_video_R@1")
    model = VATT.from_pretrained(tmp_path / "model")
    assert model.folder == tmp_path / "model"
    assert not (tmp_path / "model" / "vocabulary").exists()


def test_files_that_crash_a_decoder_are_skipped(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = read_manifest(corpus / "manifest.jsonl")
    crashing = [next(clip for clip in clips if clip.split == split) for split in ("train", "val")]
    crash_on(monkeypatch, *(Path(clip.path).name for clip in crashing))
    train(corpus, tmp_path, steps=8, num_workers=2)
    assert len(logged(tmp_path, "train/loss")) == 8
    assert len(logged(tmp_path, "val/text_to_video_R@1")) == 2
    with (tmp_path / "data_events.csv").open() as file:
        crashed = [row["path"] for row in csv.DictReader(file) if row["kind"] == "crashed"]
    assert crashed == [clip.path for clip in crashing]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"num_frames": 4}, "video"),
        ({"size": 48}, "video"),
        ({"sample_rate": 2048}, "audio"),
        ({"num_words": 7}, "text"),
    ],
)
def test_data_of_another_shape_are_refused_by_the_key(changed: dict[str, int], key: str) -> None:
    backbone = tiny_backbone()
    check_fit(backbone, TINY, WordVocabulary(WORDS))
    with pytest.raises(
        ConfigMismatch, match=rf"data\.format does not fit model\.backbone\.init_args\.tokenizers\.{key}"
    ):
        check_fit(backbone, replace(TINY, **changed), None)


def test_a_vocabulary_larger_than_the_model_is_refused() -> None:
    with pytest.raises(ConfigMismatch, match=r"data\.vocabulary has 12 ids .* is for 11"):
        check_fit(tiny_backbone(), TINY, WordVocabulary([*WORDS, "new"]))
    vocabulary = WordVocabulary(WORDS)
    vocabulary.pad_id = 3
    with pytest.raises(ConfigMismatch, match="pads with 3"):
        check_fit(tiny_backbone(), TINY, vocabulary)


@pytest.mark.slow
def test_a_model_learns_pairs_it_sees_again(tmp_path: Path) -> None:
    """Captions and sounds of eight clips are told apart: a collapsed model cannot."""
    torch.manual_seed(0)
    objective = Contrastive(SMALL_HEAD, drop_video=0.25, drop_audio=0.25)
    module = PretrainModule(tiny_backbone(width=32), objective)
    batch = tiny_batch(8)
    batch["text_valid"][:, 1] = False  # MIL-NCE may leave the first of several texts alone
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        objective(module.backbone, batch)["loss"].backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        module.validation_step(batch, 0)
    for metric in module.retrieval.values():
        for direction, found in metric.compute().items():
            assert found["R@1"] == 100.0, direction


def go_on(rank: int, world: int, corpus: Path, folder: Path, port: int, steps: int, strategy: str) -> None:
    """One process of a training that torchrun has started."""
    at = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "0", "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update({name: str(value) for name, value in (at | there).items()})
    torch.set_num_threads(1)
    train(
        corpus, folder, steps=steps, resume=True, batch_size=4 // world, num_workers=rank, devices=world,
        strategy=strategy,
    )  # fmt: skip
    if dist.is_initialized():
        dist.barrier()
    os._exit(0)  # threads of gloo sometimes abort an interpreter that shuts down


def on_several(world: int, corpus: Path, folder: Path, steps: int, strategy: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(go_on, (world, corpus, folder, port, steps, strategy), nprocs=world, start_method="spawn")


@pytest.mark.parametrize(("world", "strategy"), [(2, "ddp"), (2, "sharded")])
def test_it_goes_on_with_another_number_of_processes(corpus: Path, tmp_path: Path, world: int, strategy: str) -> None:
    """The same clips, augmentation and DropToken, so that the losses are the same but for rounding."""
    train(corpus, tmp_path / "whole", steps=8)
    train(corpus, tmp_path / "parts", steps=8, stop_after=3)
    on_several(world, corpus, tmp_path / "parts", 8, strategy)
    for name in ("train/loss", "train/video_audio", "val/rsum"):
        whole, parts = logged(tmp_path / "whole", name), logged(tmp_path / "parts", name)
        assert parts == pytest.approx(whole, rel=1e-4), name
    assert len(parts) == 2
    models = [VATT.from_pretrained(tmp_path / run / "model").state_dict() for run in ("whole", "parts")]
    for name in ("backbone.tokenizers.video.project.weight", "projection.audio_to_va.weight"):
        torch.testing.assert_close(*(model[name] for model in models), rtol=1e-2, atol=1e-4)
    # What they have left is what one process leaves.
    left = [torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True) for run in ("whole", "parts")]
    states = [checkpoint["optimizer_states"][0] for checkpoint in left]
    assert [group["params"] for group in states[0]["param_groups"]] == [g["params"] for g in states[1]["param_groups"]]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, state in states[0]["state"].items():
        torch.testing.assert_close(states[1]["state"][number]["exp_avg"], state["exp_avg"], rtol=1e-2, atol=1e-3)


def test_backbone_and_objective_are_clipped_apart_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    module = PretrainModule(tiny_backbone(), Contrastive(SMALL_HEAD), Optimization(warmup_steps=3, clip_each=1.0))
    monkeypatch.setattr(module, "clip_gradients", lambda *_, **__: None)  # the trainer's own
    for step, clipped in ((2, False), (3, True)):
        module._trainer = SimpleNamespace(global_step=step)  # type: ignore[assignment]
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        module.configure_gradient_clipping(None)  # type: ignore[arg-type]
        for part in (module.backbone, module.objective):
            norm = torch.cat([p.grad.flatten() for p in part.parameters()]).norm().item()
            assert (norm == pytest.approx(1.0, rel=1e-3)) == clipped


def test_a_training_can_begin_with_a_model(tmp_path: Path) -> None:
    first = PretrainModule(tiny_backbone(), Contrastive(SMALL_HEAD))
    first.export(TINY).save_pretrained(tmp_path / "model")
    torch.manual_seed(1)
    second = PretrainModule(tiny_backbone(), Contrastive(SMALL_HEAD), pretrained=str(tmp_path / "model"))
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[name], value), name
    for name, value in first.objective.head().state_dict().items():
        assert torch.equal(second.objective.head().state_dict()[name], value), name
    wider = functools.partial(HierarchicalProjection, video_audio=24, video_text=8)
    with pytest.warns(UserWarning, match="its head does not fit .*, and begins anew"):
        PretrainModule(tiny_backbone(), Contrastive(wider), pretrained=str(tmp_path / "model"))
    other = tiny_backbone().tower("video")
    with pytest.raises(ConfigMismatch, match="is of another model"):
        PretrainModule(other, Contrastive(SMALL_HEAD), pretrained=str(tmp_path / "model"))
