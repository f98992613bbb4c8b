"""A GPU that is none: whole runs on a machine without one, refused where two devices would meet.

A tensor that was moved to "cuda" keeps its numbers in the memory of the CPU and says that it is on
the GPU; so does all that is computed of it or made with its device. What is computed of tensors on
both sides is refused, and so is what a GPU cannot do. It is stricter than CUDA, which takes numbers
without dimensions and index tensors from the CPU: each of these would be a transfer in every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

__all__ = ["GPU", "Far", "pretended_gpu"]

GPU = torch.device("cuda", 0)
_PLAIN = torch.Tensor
# moves between devices, and questions about tensors, which compute nothing
_MOVES = {_PLAIN.copy_, torch._has_compatible_shallow_copy_type}
_PRODUCTS = {
    torch.matmul, torch.mm, torch.bmm, torch.einsum, _PLAIN.matmul, _PLAIN.__matmul__,
    _PLAIN.__rmatmul__, torch.nn.functional.linear,
}  # fmt: skip
_TO_NUMPY = {_PLAIN.numpy, _PLAIN.__array__}
_SYNCS = {_PLAIN.item, _PLAIN.tolist, _PLAIN.__bool__, _PLAIN.__float__, _PLAIN.__int__}
_SYNCS |= {_PLAIN.nonzero, torch.nonzero, _PLAIN.cpu}


class Far(torch.Tensor):
    """A tensor that says that it is on the GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    # whether torch itself asks, which is to make what it needs on the CPU
    inside: ClassVar[int] = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if Far.inside else GPU

    @property
    def is_cuda(self) -> bool:
        return not Far.inside


def _far(x: Any) -> Any:
    return x.as_subclass(Far) if isinstance(x, Tensor) and not isinstance(x, Far) else x


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, tuple | list):
        for part in given:
            yield from _tensors(part)
    elif isinstance(given, dict):
        yield from _tensors(tuple(given.values()))


def _back(found: Any) -> Any:
    return _far(found) if isinstance(found, Tensor) else tree_map(_far, found)


def _wanted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """Return the device that `Tensor.to` is told; None if it is told none."""
    for given in (*args, kwargs.get("device"), kwargs.get("other")):
        if isinstance(given, Tensor):
            return GPU if isinstance(given, Far) else torch.device("cpu")
        if isinstance(given, torch.device | str):
            return torch.device(given)
    return None


class Mode(TorchFunctionMode):
    """Watches every torch function; `counts` what a GPU would have to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = list(_tensors((args, kwargs)))
        far = [v for v in tensors if isinstance(v, Far)]
        name = getattr(func, "__name__", str(func))
        if far and func in _SYNCS:
            self.counts["syncs"] += 1
        if func in _TO_NUMPY and far:
            raise TypeError(f"{name}: can't convert a tensor on the GPU to numpy")
        if func is _PLAIN.cpu or (func is _PLAIN.to and _wanted(args[1:], kwargs) is not None):
            return self._moved(args[0], func, args[1:], kwargs)
        if len(far) not in (0, len(tensors)) and func not in _MOVES:
            shapes = [(tuple(v.shape), str(v.device)) for v in tensors]
            raise RuntimeError(f"{name}: expected all tensors on one device, found {shapes}")
        if func in _PRODUCTS and any(not v.is_floating_point() for v in far):
            raise RuntimeError(f"{name}: not implemented on the GPU for whole numbers")
        if func is torch._has_compatible_shallow_copy_type:
            return len(far) in (0, 2)
        there = bool(far)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = "cpu"
        Far.inside += 1
        try:
            found = func(*args, **kwargs)
        finally:
            Far.inside -= 1
        return _back(found) if there and func not in _MOVES else found

    def _moved(self, x: Tensor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        device = torch.device("cpu") if func is _PLAIN.cpu else _wanted(args, kwargs)
        assert device is not None
        there, here = device.type == "cuda", isinstance(x, Far)
        rest = [a for a in args if isinstance(a, torch.dtype)]
        rest += [a.dtype for a in (*args, kwargs.get("other")) if isinstance(a, Tensor)]
        rest += [kwargs["dtype"]] if kwargs.get("dtype") is not None else []
        found = x.to(rest[0]) if rest else x
        if there != here:
            self.counts["to the GPU" if there else "to the CPU"] += 1
            found = found.clone() if found is x else found
            found = _far(found) if there else found.as_subclass(_PLAIN)
        return _far(found) if there else found


@contextmanager
def pretended_gpu(monkeypatch):
    """Let torch see one GPU, for as long as the context lasts; yield the mode."""
    with monkeypatch.context() as patch, Mode() as mode:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "a pretended GPU")
        yield mode
