"""Networks, processes around pretrained models, their weights, splits and training scripts.

The folder `models/` is installed as `seqalign.models`. Each model is found by name through the
entry points `seqalign.models` and describes itself in `cards/NAME.yaml`: what it predicts, what
it was trained on, the held-out figures and the command that measures each of them.
"""

# Run from the repository root, Python would also find this folder as a top-level package: two
# copies of every class, and weights that load into the wrong one.
if __name__ != "seqalign.models":
    raise ImportError(
        f"This package was imported as {__name__!r}: use `import seqalign.models` (after "
        "`pip install -e .` in the repository root, if seqalign is not installed)."
    )
