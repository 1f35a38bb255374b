"""Fake GPU: tensors without content on the device "cuda", so that tensors on the wrong device raise an error.

PyTorch's autograd engine needs a real GPU; `backward` traverses the same graph without it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

DEVICE = torch.device("cuda:0")


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """Make all new tensors fake inside the block. Existing tensors are treated as fake ones on their device."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def fake(value: Any, device: torch.device = DEVICE) -> Any:
    """Return a tensor, a dictionary of tensors or a module (changed in place) without content on a device."""
    if isinstance(value, nn.Module):
        return value._apply(lambda x: fake(x, device))
    if isinstance(value, dict):
        return {name: fake(x, device) for name, x in value.items()}
    return torch.empty(value.shape, dtype=value.dtype, device=device) if isinstance(value, Tensor) else value


def outside(function: Any) -> Any:
    """Wrap a function so that it computes real values on the CPU inside `fake_gpu` and returns fake tensors."""

    def called(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            result = function(*args, **kwargs)
        return tuple(fake(x, x.device) for x in result)

    return called


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """Compute what ``loss.backward()`` computes, without the autograd engine."""
    users: Counter[Any] = Counter()
    nodes, stack = {loss.grad_fn}, [loss.grad_fn]
    while stack:
        for after, _ in stack.pop().next_functions:
            if after is not None:
                users[after] += 1
                if after not in nodes:
                    nodes.add(after)
                    stack.append(after)
    gradients: defaultdict[Any, dict[int, Tensor]] = defaultdict(dict)
    gradients[loss.grad_fn][0] = torch.ones_like(loss)
    # Activation checkpointing recomputes once for each id of a backward pass.
    with patch("torch._C._current_graph_task_id", lambda: 1):
        _traverse([loss.grad_fn], users, gradients)


def _traverse(ready: list[Any], users: Counter[Any], gradients: defaultdict[Any, dict[int, Tensor]]) -> None:
    while ready:
        node = ready.pop()
        incoming = gradients.pop(node, {})
        if hasattr(node, "variable"):
            _accumulate(node.variable, incoming.get(0))
            continue
        results = _call(node, incoming) if incoming else None
        results = results if isinstance(results, tuple) else (results,) * len(node.next_functions)
        for (after, number), gradient in zip(node.next_functions, results, strict=True):
            if after is None:
                continue
            if gradient is not None:
                own, like = gradients[after], after._input_metadata[number]
                gradient = gradient.sum_to_size(like.shape).to(like.dtype)  # of what was broadcast
                own[number] = own[number] + gradient if number in own else gradient
            users[after] -= 1
            if not users[after]:
                ready.append(after)


def _call(node: Any, gradients: dict[int, Tensor]) -> Any:
    """Return the gradients of the inputs of a node. Gradients of some of its outputs may be missing."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return node(*(gradients.get(number) for number in range(len(node._input_metadata))))
    with_zeros = (
        gradients[number] if number in gradients else torch.zeros(like.shape, dtype=like.dtype, device=like.device)
        for number, like in enumerate(node._input_metadata)
    )
    results = zip(node.apply(*with_zeros), node.needs_input_grad, strict=True)
    needed = iter([result for result, is_needed in results if is_needed])
    return tuple(None if after is None else next(needed) for after, _ in node.next_functions)


def _accumulate(parameter: Tensor, gradient: Tensor | None) -> None:
    if gradient is not None:
        assert gradient.device == parameter.device, f"gradient on {gradient.device}, parameter on {parameter.device}"
        assert gradient.shape == parameter.shape
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
