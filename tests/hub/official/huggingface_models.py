"""Tiny random V-JEPA 2 and VideoMAE in directories of Hugging Face, with their features of uint8 frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

SIZES: dict[str, dict[str, Any]] = {
    "vjepa2": {
        "patch_size": 8, "crop_size": 16, "frames_per_clip": 4, "tubelet_size": 2, "hidden_size": 24,
        "num_attention_heads": 2, "num_hidden_layers": 2, "pred_hidden_size": 24, "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1, "num_pooler_layers": 1,
    },
    "videomae": {
        "image_size": 16, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, "hidden_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40, "decoder_hidden_size": 12,
        "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 24,
    },
}  # fmt: skip
CONFIGS = {"vjepa2": "VJEPA2Config", "videomae": "VideoMAEConfig"}
CLASSES = {"vjepa2": "VJEPA2", "videomae": "VideoMAE"}
FILE = {"vjepa2": "video_preprocessor_config.json", "videomae": "preprocessor_config.json"}
PROCESSOR = {
    "vjepa2": {"video_processor_type": "VJEPA2VideoProcessor"},
    "videomae": {"image_processor_type": "VideoMAEImageProcessor"},
}
PLAIN = {"do_resize": False, "do_center_crop": False}


def make(folder: Path, model_type: str, suffix: str = "Model", **values: Any) -> torch.nn.Module:
    """Save a random model whose biases and norms are not zeros and ones, and its preprocessing file."""
    torch.manual_seed(0)
    config = getattr(transformers, CONFIGS[model_type])(**SIZES[model_type] | values)
    model = getattr(transformers, f"{CLASSES[model_type]}{suffix}")(config).eval()
    add_noise(model)
    model.save_pretrained(folder)
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    write_processor(folder, model_type, **processor)
    return model


def add_noise(model: torch.nn.Module) -> None:
    """Change biases and norms, so that they are not zeros and ones."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)


def write_processor(folder: Path, model_type: str, file: str | None = None, **values: Any) -> dict[str, Any]:
    """Write a preprocessing file for frames of the model's size, with further keys."""
    content = PROCESSOR[model_type] | PLAIN | values
    (folder / (file or FILE[model_type])).write_text(json.dumps(content))
    return content


def change(file: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def frames(size: int = 16, count: int = 4) -> Tensor:
    """Return a clip (1, T, 3, H, W) of uint8."""
    return torch.randint(256, (1, count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def processed(folder: Path, model_type: str, clip: Tensor) -> Tensor:
    """Return the input of the original model, by its own processor.

    The processor of V-JEPA 2 needs torchvision. The one of VideoMAE scales and normalizes with the same formula, and is
    used in its place if torchvision is missing, with the defaults of V-JEPA 2.
    """
    images = list(clip[0].permute(0, 2, 3, 1).numpy())
    if model_type == "videomae":
        processor = transformers.VideoMAEImageProcessorPil.from_pretrained(folder)
        return processor([images], return_tensors="pt").pixel_values.float()
    if transformers.utils.is_torchvision_available():
        processor = transformers.VJEPA2VideoProcessor.from_pretrained(folder)
        return processor([np.stack(images)], return_tensors="pt").pixel_values_videos.float()
    defaults = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    content = json.loads((folder / FILE[model_type]).read_text())
    processor = transformers.VideoMAEImageProcessorPil(**defaults | content)
    return processor([images], return_tensors="pt").pixel_values.float()


def features(model: torch.nn.Module, model_type: str, pixels: Tensor) -> Tensor:
    """Return the tokens of the original encoder."""
    trunk = getattr(model, model_type, model)
    kwargs = {"skip_predictor": True} if model_type == "vjepa2" else {}
    with torch.no_grad():
        return trunk(pixels, **kwargs).last_hidden_state
