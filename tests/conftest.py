"""Published weights, and a GPU, are seen by the tests that ask for them, and by no other."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from seqalign import weights

# parallel workers inherit what the first process has set
REAL = Path(os.environ.setdefault("SEQALIGN_TEST_WEIGHTS", str(weights.folder())))
os.environ["SEQALIGN_WEIGHTS"] = str(Path(tempfile.gettempdir()) / "seqalign-tests-no-weights")


@pytest.fixture(autouse=True)
def _published_weights(request, monkeypatch):
    """Give a test marked `weights(NAME)` the folder of this machine, or skip it."""
    marks = list(request.node.iter_markers("weights"))
    if not marks:
        return
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(REAL))
    for mark in marks:
        try:
            weights.path(mark.args[0])
        except weights.MissingWeights as error:
            pytest.skip(f"needs published weights. {error}")


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    """Let what asks for no device run on the CPU, also where there is a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
