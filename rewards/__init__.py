"""Reward oracles, imported as `seqalign.rewards`: one number per design, higher is better.

Each module holds factories that entry points of the group `seqalign.rewards` name; each factory has
a card in `cards/` that states what it predicts, its unit, its direction and the figures it reached.
"""

if __name__ != "seqalign.rewards":
    raise ImportError(
        f"This package was imported as {__name__!r}, which would load every reward twice. "
        f"Use `import seqalign.rewards` (after `pip install -e .` or `pip install .`)."
    )
