"""Devices: where letters live, and rewards that are asked on the CPU wherever these are.

States of a process over letters live where its network is. A reward says that it `follows` them;
any other, as one that somebody wrote with a table of their own, is told them on the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seqalign.core.objective import Reward, Way, Wrapper, walk
from seqalign.core.process import Designs

__all__ = ["NoDevice", "OnCpu", "abreast", "beside", "onto"]

# states of letters that are drawn at once where that is faster than one island after another
MOST = 1024


class NoDevice(ValueError):
    """A device that this machine has not; the message says what to do."""


def _home(process: Any) -> torch.device | None:
    """Return the device on which a process has letters; None if that is the CPU."""
    place = torch.device(getattr(process, "device", "cpu")) if process.discrete else None
    return None if place is None or place.type == "cpu" else place


def onto(process: Any, x: Tensor) -> Tensor:
    """Return states of letters where a process has them; continuous ones stay where they are."""
    place = _home(process)
    return x if place is None else x.to(place)


def abreast(process: Any, particles: int) -> int:
    """Return how many islands of so many particles are best drawn at once: one on the CPU."""
    if _home(process) is None or process.event_mask is not None:
        return 1
    return max(1, MOST // particles)


class OnCpu(Wrapper):
    """A reward that is asked on the CPU; what it says, gradients too, goes back."""

    def ask(self, way: Way, given: Any) -> Tensor:
        """Ask about the same designs, or letter probabilities, on the CPU."""
        if not isinstance(given, Designs):
            return way(self.inner, given.cpu()).to(given.device)
        mask = given.event_mask
        there = replace(given, x=given.x.cpu(), event_mask=None if mask is None else mask.cpu())
        return way(self.inner, there).to(given.x.device)


def beside(reward: Reward, process: Any) -> Reward:
    """Return a reward that can be asked where a process has its letters; itself if it can."""
    return reward if _home(process) is None else _ashore(reward)


def _ashore(reward: Reward) -> Reward:
    follows = [part.follows for part in walk(reward) if not part.parts]
    if all(follows) or isinstance(reward, OnCpu):
        return reward
    # as a whole, if that will do: a memory inside goes on being filled
    return reward.map(_ashore) if any(follows) else OnCpu(reward)
