"""Laws of devices: what runs on a GPU is what runs on the CPU, and nothing of it lies elsewhere.

A GPU that is pretended (`pretended`) runs everything on the CPU and refuses whatever would meet on
two devices; where there is a real one, the last tests ask it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backbones import backbone_of, network
from commands import call, words
from pretended import GPU, Far, pretended_gpu

import seqalign as sa
from seqalign.campaign.metrics import prior_log_likelihood
from seqalign.core import devices
from seqalign.core.discrete import MaskedProcess
from seqalign.core.moves import Redraw, Remask
from seqalign.core.objective import Reward
from seqalign.core.reorder import Reorder
from seqalign.core.states import product
from seqalign.core.tempering import Linear
from seqalign.files.beside import ContextAtoms
from seqalign.models import backbone as backbones
from seqalign.models.inverse_folding import process
from seqalign.models.ligand_mpnn import ContextEncoder
from seqalign.models.membrane import LabelEncoder
from seqalign.models.mpnn_weights import Weights, shipped

LENGTH = 10
STRUCTURE = backbone_of(LENGTH, chains=2)
OTHER = replace(STRUCTURE, coords=backbone_of(LENGTH, 5, chains=2).coords)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def gpu(monkeypatch):
    """What is asked for on "cuda" within it is pretended."""
    return lambda: pretended_gpu(monkeypatch)


def built(letters, device, structure=STRUCTURE, neighbors=6, **options):
    source = Weights(network(letters, 16), neighbors)
    return process(source, structure, device=device, temperature=0.5, **options)


def test_the_pretended_gpu_refuses_what_a_gpu_does_and_what_would_be_a_transfer(gpu):
    with gpu():
        x = torch.zeros(3, device="cuda")
        made = (x + 1, x[:2].new_ones(2), x.to(torch.int64), x.topk(2).values, x.clone().add_(1))
        assert all(v.device == GPU for v in (x, *made))
        assert x.cpu().device.type == torch.arange(3).device.type == "cpu"
        for wrong in (
            lambda: x + torch.zeros(3),
            lambda: x[torch.arange(2)],
            lambda: torch.where(x > 0, x, torch.zeros(())),
            lambda: torch.cat((x, torch.zeros(3))),
            lambda: x.long() @ x.long(),
            lambda: x.__setitem__(torch.arange(2), 1.0),
        ):
            with pytest.raises(RuntimeError):
                wrong()
        with pytest.raises(TypeError):
            x.numpy()


def read(p, x):
    """Logits of tokens, and likelihoods of them as designs."""
    logits = p.network(x.to(p.device), 0.0)
    assert logits.device.type == p.device.type
    whole = (x[0] * 7 + 3) % 20
    return logits.cpu(), prior_log_likelihood(p, whole, [*range(3), *range(5, LENGTH)])


@pytest.mark.parametrize("letters", [21, 22])
@pytest.mark.parametrize(("neighbors", "room"), [(6, 0), (48, 0), (6, 1 << 29)])
def test_logits_and_likelihoods_are_those_of_the_cpu(gpu, monkeypatch, letters, neighbors, room):
    monkeypatch.setattr(backbones.Backbone, "room", room)
    x = torch.randint(21, (2, 5, LENGTH), generator=torch.Generator().manual_seed(0))
    here = read(built(letters, "cpu", neighbors=neighbors), x)
    with gpu():
        there = read(built(letters, "cuda", neighbors=neighbors), x)
    for a, b in zip(here, there, strict=True):
        assert not isinstance(b, Far)
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("size", [1, 1 << 10, 1 << 26])
def test_large_calls_may_be_of_any_size(gpu, monkeypatch, size):
    x = torch.randint(21, (2, 5, LENGTH), generator=torch.Generator().manual_seed(0))
    here = read(built(21, "cpu"), x)
    monkeypatch.setattr(backbones, "WIDE_PIECE", size)
    with gpu():
        there = read(built(21, "cuda"), x)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(here, there, strict=True))


def test_ligands_and_labels_are_encoded_there(gpu):
    torch.manual_seed(0)
    atoms = ContextAtoms(STRUCTURE.coords[3:8, 1] + 4.0, torch.tensor([6, 7, 8, 6, 30]), ("X",) * 5)
    cases = [
        (replace(STRUCTURE, context_atoms=atoms), {"context": ContextEncoder(16, 2, 8)}, {}),
        (STRUCTURE, {"labels": LabelEncoder(16), "name": "global"}, {"label": "transmembrane"}),
    ]
    for structure, parts, options in cases:
        parts = {k: v if isinstance(v, str) else v.requires_grad_(False) for k, v in parts.items()}
        source = Weights(network(21, 16), 6, **parts)
        here = source.encode(structure, **options)
        with gpu():
            there = source.encode(structure, device="cuda", **options)
            found = there.unconditional()
        assert isinstance(found, Far)
        assert torch.allclose(here.unconditional(), found.cpu(), atol=1e-5)
        plain = Weights(source.network, 6).encode(structure).unconditional()
        assert not torch.allclose(here.unconditional(), plain, atol=1e-3)
        # the source stays where it was
        assert torch.equal(source.encode(structure, **options).h, here.h)


SPACES = {
    "free": {},
    "budget": {"max_mutations": 4},
    "fixed and allowed": {"fix": "A1-3", "residues": {"A5": {"allow": "AC"}}, "omit": "W"},
    "patterns": {"forbid": ["N[^P][ST]"], "max_homopolymer": 2},
    "tied": {"tie": [["A1-3", "B6-8"]]},
    "counted": {"net_charge": {"min": -1, "max": 1}, "max_mutations": 6},
}


def run(p, method, reward, **space):
    model = sa.load_model(p, **space)
    return sa.sample(model, reward, method, particles=3, seed=3).samples


def agree(a, b):
    """What came back from a GPU is on the CPU, and is what the CPU gives."""
    assert not any(isinstance(v, Far) for v in (b.x, b.log_w, b.rewards, b.trace[1].ess))
    assert torch.equal(a.x, b.x)
    for u, v in ((a.log_w, b.log_w), (a.rewards, b.rewards)):
        assert torch.allclose(u, v, atol=1e-3)


@pytest.mark.parametrize(
    ("letters", "space"), [*((21, s) for s in SPACES), (22, "budget"), (22, "tied")]
)
def test_a_run_with_constraints_gives_the_designs_of_the_cpu(gpu, letters, space):
    reward = sa.load_reward("ddg-mini", structure=STRUCTURE)
    method = sa.load_method("tds", alpha=0.7)
    here = run(built(letters, "cpu"), method, reward, **SPACES[space])
    with gpu() as mode:
        there = run(built(letters, "cuda"), method, reward, **SPACES[space])
    agree(here, there)
    assert mode.counts["to the GPU"]


METHODS = {
    **{
        name: {}
        for name in (
            "best_of_n",
            "das",
            "causal_smc",
            "bias",
            "fk_steering",
            "svdd",
            "nested_is",
            "beam",
            "guidance",
        )
    },
    "smc": {"value": "posterior_sample"},
    "particle_gibbs": {"particles": 3, "burn_in": 1},
}
MOVES = {"redraw": Redraw(), "remask": Remask(), "reorder": Reorder()}


@pytest.mark.parametrize("method", [*METHODS, *MOVES])
def test_every_method_and_move_gives_the_designs_of_the_cpu(gpu, method):
    given, letters = METHODS.get(method, {}), 21
    if method in MOVES:
        # a network that remembers cannot forget a letter
        given, letters = {"move": MOVES[method], "tempering": Linear()}, 22
    aligner = sa.load_method("das" if method in MOVES else method, alpha=0.7, **given)
    reward = sa.load_reward("ddg-mini", structure=STRUCTURE)
    here = run(built(letters, "cpu"), aligner, reward, max_mutations=5)
    with gpu():
        there = run(built(letters, "cuda"), aligner, reward, max_mutations=5)
    agree(here, there)


@pytest.mark.parametrize("order", ["random", "parallel"])
def test_parallel_reveals_and_gradients_through_the_network(gpu, order):
    options = {"order": order, "steps": LENGTH}
    reward = sa.load_reward("ddg-mini", structure=STRUCTURE)
    method = sa.load_method("tds", alpha=0.7, tilt={"through": "network"})
    here = run(built(22, "cpu", **options), method, reward, max_mutations=5)
    with gpu():
        there = run(built(22, "cuda", **options), method, reward, max_mutations=5)
    agree(here, there)


class Own(Reward):
    """A reward with a table of its own, which knows of no devices."""

    name = "own"
    differentiable = True
    table = torch.randn(LENGTH, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def relaxed(self, x):
        return (x * self.table).sum((-1, -2))

    def __call__(self, designs):
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 20).double())


NAMED = {
    "mpnn-score": {"structure": STRUCTURE, "orders": 2},
    "unconditional": {"structure": STRUCTURE, "mode": "unconditional"},
    "charge": {},
    "instability-index": {},
    "isoelectric-point": {},
    "flexibility": {},
}


def rewards(device):
    """Rewards of every kind, by name."""
    place = {"mpnn-score": {"device": device}}
    named = {
        name: sa.load_reward(
            "mpnn-score" if "mode" in given else name, **given, **place.get(name, {})
        )
        for name, given in NAMED.items()
    }
    function = sa.reward(lambda sequences: [float(s.count("A")) for s in sequences])
    whole = 0.5 * Own() + 0.3 * named["charge"] - 0.1 * function.clip(0, 3)
    return {**named, "own": Own(), "function": function, "sum": whole}


@pytest.mark.parametrize("name", [*NAMED, "own", "function", "sum"])
def test_rewards_follow_or_are_asked_on_the_cpu(gpu, name):
    reward = rewards("cpu")[name]
    method = sa.load_method("tds" if reward.differentiable else "smc", alpha=0.7)
    here = run(built(21, "cpu"), method, reward)
    with gpu():
        reward = rewards("cuda")[name]
        there = run(built(21, "cuda"), method, reward)
        # designs from a file are on the CPU, wherever the reward is
        again = reward(there.designs)
    agree(here, there)
    assert not isinstance(again, Far)
    assert torch.allclose(again.double(), here.rewards, atol=1e-4)


@pytest.mark.parametrize("letters", [21, 22])
def test_several_states_are_read_there(gpu, letters):
    reward = sa.load_reward("ddg-mini", structure=STRUCTURE)

    def both(device):
        return product([built(letters, device, s) for s in (STRUCTURE, OTHER)])

    for name in ("tds", "best_of_n") if letters == 21 else ("tds",):
        here = run(both("cpu"), sa.load_method(name, alpha=0.7), reward)
        with gpu():
            there = run(both("cuda"), sa.load_method(name, alpha=0.7), reward)
        agree(here, there)


@pytest.mark.parametrize("method", ["tds", "best_of_n"])
def test_islands_are_drawn_together_and_are_what_they_are_alone(gpu, monkeypatch, method):
    reward = sa.load_reward("ddg-mini", structure=STRUCTURE)
    aligner, shapes = sa.load_method(method, alpha=0.7), []

    def five(device):
        model = sa.load_model(built(21, device), max_mutations=5)
        return sa.sample(model, reward, aligner, particles=3, islands=5).samples

    def seen(self, x, t, *before):
        shapes.append(tuple(x.shape[:2]))
        return posterior(self, x, t, *before)

    posterior = MaskedProcess.posterior
    here = five("cpu")
    monkeypatch.setattr(MaskedProcess, "posterior", seen)
    monkeypatch.setattr(devices, "MOST", 6)
    with gpu():
        there = five("cuda")
    agree(here, there)
    # two at a time, and the odd one alone
    if method == "tds":
        assert set(shapes) == {(2, 3), (1, 3)}
    for a, b in zip(here.trace, there.trace, strict=True):
        assert torch.allclose(a.ess, b.ess, atol=1e-3)
        assert (a.network_calls, a.reward_calls) == (b.network_calls, b.reward_calls)


CAMPAIGN = """
version: 1
name: there
input: {structure: a.pdb}
model: {name: mpnn-mini, temperature: 0.5}
rewards:
  stability: {oracle: ddg-mini}
  likely: {oracle: mpnn-score, role: final}
constraints: {max_mutations: 5}
sampler: {name: tds, particles: 2, islands: 2, alpha: 1.0}
baselines: [best_of_n]
select: {top: 3}
"""


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "a.pdb").write_text(STRUCTURE.to_pdb())
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    return tmp_path / "c.yaml"


def test_a_campaign_says_where_it_runs_and_gives_the_designs_of_the_cpu(gpu, campaign, tmp_path):
    assert "runs on the CPU" in words(call("check", campaign, "--set", "model.device=cpu"))
    tables = []
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        argv = ("run", campaign, "--out", out, "--set", f"model.device={device}")
        if device == "cpu":
            result = call(*argv)
        else:
            with gpu() as mode:
                said = words(call("check", campaign))
                result = call(*argv)
            assert "runs on cuda:0 (a pretended GPU)" in said.replace("cuda (", "cuda:0 (")
            assert mode.counts["to the GPU"]
        assert result.exit_code == 0, result.output
        tables.append((out / "designs.fasta").read_text())
    assert tables[0] == tables[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("change", ["model.device=cuda", "rewards.likely.params.device=cuda"])
def test_a_gpu_that_is_not_there_ends_in_one_sentence(campaign, change):
    result = call("check", campaign, "--set", change)
    assert result.exit_code == 4
    place = change.partition("=")[0]
    for part in (place, "device is 'cuda'", "torch sees 0 GPUs here", "give device: auto"):
        assert part in words(result)


# on a real one -----------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("letters", [21, 22])
def test_a_gpu_reads_what_the_cpu_reads(letters):
    x = torch.randint(21, (2, 5, LENGTH), generator=torch.Generator().manual_seed(0))
    for a, b in zip(*(read(built(letters, d), x) for d in ("cpu", "cuda")), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@needs_gpu
@pytest.mark.parametrize("space", SPACES)
def test_a_gpu_draws_by_the_law_of_the_cpu(space):
    reward = sa.load_reward("ddg-mini", structure=STRUCTURE)
    method = sa.load_method("tds", alpha=0.7)
    found = []
    for device in ("cpu", "cuda"):
        model = sa.load_model(built(21, device), **SPACES[space])
        log_z = sa.sample(model, reward, method, islands=64, particles=8).samples.log_z
        found.append(log_z.exp())
    # the same streams: all but a few islands are the same to rounding
    a, b = found
    assert int((~torch.isclose(a, b, rtol=1e-2)).sum()) <= 6
    spread = (a.std() ** 2 + b.std() ** 2).sqrt() / 8
    assert abs(float(a.mean() - b.mean())) < 4.5 * float(spread)


@needs_gpu
def test_embedded_weights_run_on_a_gpu():
    p = process(shipped(), STRUCTURE, device="cuda")
    q = process(shipped(), STRUCTURE)
    x = torch.full((1, 2, LENGTH), 20)
    assert torch.allclose(q.network(x), p.network(x.cuda()).cpu(), atol=1e-4)
