"""The media there are: letters and images."""

from __future__ import annotations

from seqalign.campaign.images import Images
from seqalign.campaign.letters import Letters
from seqalign.campaign.medium import Medium
from seqalign.core.process import Process
from seqalign.registry import draws_images

MEDIA: dict[str, Medium] = {medium.kind: medium for medium in (Letters(), Images())}


def medium_of(model: str, process: Process | None = None) -> Medium:
    """Return the medium that a process at hand, or else a registered model, designs in.

    Raises:
        SpecError: the name is unknown, or what it needs is not installed.
    """
    images = draws_images(model) if process is None else not process.discrete
    return MEDIA["images" if images else "letters"]
