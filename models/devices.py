"""Devices: where a network runs, and in which precision."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from seqalign.core.devices import NoDevice

__all__ = ["NoDevice", "Precision", "device_of"]

Precision = Literal["float32", "bfloat16", "float16"]


def device_of(device: str, precision: str = "float32") -> str:
    """Return the device that is meant; "auto" is cuda where there is one.

    Raises:
        NoDevice: this machine has no such device.
        ValueError: there is no such device or precision anywhere.
    """
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision is {precision!r}; give one of {', '.join(get_args(Precision))}."
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}; give auto, cpu, cuda or cuda:1.") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise NoDevice(
            f"device is {device!r}, and torch sees {torch.cuda.device_count()} GPUs here: give "
            "device: auto, which is a GPU where there is one and else the CPU."
        )
    return device
