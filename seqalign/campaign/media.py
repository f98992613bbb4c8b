"""The media there are: letters and images."""

from __future__ import annotations

from seqalign.campaign.images import Images
from seqalign.campaign.letters import Letters
from seqalign.campaign.medium import Medium
from seqalign.registry import draws_images

__all__ = ["MEDIA", "medium_of"]

MEDIA: dict[str, Medium] = {medium.kind: medium for medium in (Letters(), Images())}


def medium_of(model: str) -> Medium:
    """Return the medium a registered model designs in.

    Raises:
        SpecError: the name is unknown, or what it needs is not installed.
    """
    return MEDIA["images" if draws_images(model) else "letters"]
