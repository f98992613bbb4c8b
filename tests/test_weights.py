"""Weights and answers: a number that is NaN or infinite is refused in a sentence, by whatever
reads weights, and an answer of a network that is no law by every discrete process.
"""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path

import exact
import pytest
import torch
from safetensors.torch import load_file, save_file

import seqalign as sa
from seqalign import weights
from seqalign.core.streams import Streams
from seqalign.files.structure import demo_backbone
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.tds import TDS
from seqalign.models import emoji, pdz
from seqalign.models.mpnn import MPNN
from seqalign.models.mpnn_weights import load_checkpoint
from seqalign.rewards import checkpoints, ddg_pairs

ROOT = Path(__file__).resolve().parents[1]
BAD = (math.nan, math.inf, -math.inf)


def spoiled(state: dict[str, torch.Tensor], name: str, bad: float) -> dict[str, torch.Tensor]:
    """A copy of tensors in which one number of one is bad."""
    tensor = state[name].clone()
    tensor.view(-1)[-1] = bad
    return state | {name: tensor}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_one_bad_number_is_found_and_named(bad, dtype):
    state = {"a": torch.ones(3, 4, dtype=dtype), "n": torch.ones(2, dtype=torch.int64)}
    assert weights.sound(state.items(), "here.pt") == state
    with pytest.raises(ValueError, match=r"^here\.pt: tensor 'a' holds 1 of 12 numbers .*another"):
        weights.sound(spoiled(state, "a", bad).items(), "here.pt")


def test_a_mask_of_attention_is_no_weight():
    mask = {"attn_mask": torch.full((2, 2), -math.inf)}
    assert weights.sound(mask.items(), "clip.pt") == mask


def test_a_spoiled_checkpoint_of_proteinmpnn_is_refused_with_file_and_tensor(tmp_path):
    torch.manual_seed(0)
    state = dict(MPNN(16, 1, 21).state_dict())
    file = tmp_path / "weights.pt"
    torch.save({"model_state_dict": state, "num_edges": 10}, file)
    assert load_checkpoint(file).neighbors == 10
    for name in (n for n, v in state.items() if v.is_floating_point()):
        torch.save({"model_state_dict": spoiled(state, name, math.nan), "num_edges": 10}, file)
        with pytest.raises(ValueError, match=rf"weights\.pt: tensor '{name}' holds 1 of"):
            load_checkpoint(file)
        with pytest.raises(ValueError, match="NaN or infinite"):
            sa.load_model("proteinmpnn", structure=demo_backbone(), checkpoint=str(file))


def test_every_kind_of_file_is_refused(tmp_path):
    own = load_file(ROOT / "models" / "pdz-mini.safetensors")
    name = next(n for n, v in own.items() if v.is_floating_point())
    save_file(spoiled(own, name, math.nan), tmp_path / "pdz.safetensors")
    with pytest.raises(ValueError, match=f"tensor '{name}'"):
        pdz.load_weights((tmp_path / "pdz.safetensors").read_bytes())
    own = load_file(ROOT / "models" / "emoji-mini.safetensors")
    save_file(spoiled(own, "enter.weight", math.inf), tmp_path / "emoji.safetensors")
    with pytest.raises(ValueError, match=r"emoji\.safetensors: tensor 'enter\.weight'"):
        emoji.emoji_mini("cat", weights=str(tmp_path / "emoji.safetensors"))
    own = load_file(ROOT / "rewards" / "ddg-mini.safetensors")
    name = next(n for n, v in own.items() if v.is_floating_point())
    save_file(spoiled(own, name, math.nan), tmp_path / "ddg.safetensors")
    with pytest.raises(ValueError, match=rf"ddg\.safetensors: tensor '{name}'"):
        ddg_pairs.read_weights(tmp_path / "ddg.safetensors")
    torch.save({"state_dict": {"module.a": torch.tensor([math.nan])}}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"head\.pth: tensor 'a'"):
        checkpoints.read_tensors(tmp_path / "head.pth")


READERS = {"load_file", "safe_open", "load_state_dict"}


def reads_weights(tree: ast.Module) -> bool:
    """Whether a module takes numbers from a file into a network or a table."""
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        f = call.func
        if isinstance(f, ast.Name) and f.id in READERS | {"load"}:
            return True
        if isinstance(f, ast.Attribute):
            of = f.value.id if isinstance(f.value, ast.Name) else ""
            whole = f.attr == "from_pretrained" and "Tokenizer" not in of
            if whole or (of == "torch" and f.attr == "load") or f.attr in READERS - {"load"}:
                return True
    return False


def test_whatever_reads_weights_asks_whether_they_are_sound():
    """A loader that is added must ask, too; training scripts read what they wrote themselves."""
    asked, silent = [], []
    for file in sorted([*(ROOT / "models").glob("*.py"), *(ROOT / "rewards").glob("*.py")]):
        tree = ast.parse(file.read_text("utf-8"))
        if file.name.startswith(("train", "teacher")) or not reads_weights(tree):
            continue
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        (asked if "sound" in names else silent).append(file.name)
    # these are handed tensors that were read and asked about elsewhere
    handed = {"mpnn.py", "ligand_mpnn.py", "membrane.py", "potts.py", "image_reward.py", "heads.py"}
    assert set(silent) <= handed, silent
    assert len(asked) >= 10


@pytest.mark.parametrize("bad", [math.nan, math.inf, "nothing"])
@pytest.mark.parametrize("kind", ["random", "parallel", "uniform"])
@pytest.mark.parametrize("method", [BestOfN(), TDS()], ids=["best_of_n", "tds"])
def test_an_answer_that_is_no_law_is_refused_and_never_drawn_from(method, kind, bad):
    p = exact.uniform() if kind == "uniform" else exact.masked(kind)

    def network(x, t):
        logits = p.process.network(x, t).clone()
        row = logits[1, 2, 0]
        if bad == "nothing":
            row[:] = -math.inf
        else:
            row[1] = bad
        return logits

    process = replace(p.process, network=network)
    with pytest.raises(ValueError, match=r"answered island 1, particle 2 at t = .* checkpoint"):
        method(process, p.reward, (2, 4), rng=Streams(0, range(2)))
