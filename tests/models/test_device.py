from __future__ import annotations

import pytest
import torch

from vatt.errors import InputError
from vatt.models.device import resolve_device


def test_device_defaults_to_a_gpu_if_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device() == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("cuda", 0, "PyTorch finds no GPU on this machine"),
        ("cuda:1", 1, "PyTorch finds 1 GPU on this machine"),
        ("cuda:9", 2, "PyTorch finds 2 GPUs on this machine"),
        ("gpu", 1, "device 'gpu' is unknown"),
        ("", 1, "device '' is unknown"),
        ("meta", 1, "device 'meta' is not supported"),
    ],
)
def test_unavailable_devices_are_reported_in_one_sentence(
    name: str, gpus: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InputError, match=message):
        resolve_device(name)
