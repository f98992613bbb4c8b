"""ThermoMPNN, the DRAKES oracle and mpnn-score: formats, parity, relaxation, messages."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.models.mpnn import MPNN, neighbor_graph
from seqalign.models.mpnn_weights import MASKED, Weights
from seqalign.rewards import inverse_folding
from seqalign.weights import MissingWeights

FOLDER = Path(inverse_folding.__file__).parent
FIXTURES = Path(os.environ.get("SEQALIGN_DATA", "")).parent / "fixtures" / "parity"
LENGTH, WIDTH, DEPTH = 14, 16, 3
WILD = "ACDEFGHIKLMNPQ"


def structure(sequence=WILD, design=None, chains=None):
    """Return a random walk with about the right bonds: any coordinates will do."""
    generator = torch.Generator().manual_seed(5)
    steps = torch.randn(len(sequence), 3, generator=generator)
    ca = (3.8 * steps / steps.norm(dim=-1, keepdim=True)).cumsum(0)
    atoms = ca[:, None] + torch.randn(len(sequence), 4, 3, generator=generator)
    return Structure(
        name="walk",
        sequence=sequence,
        coords=atoms,
        numbering=Numbering(
            tuple(chains or "A" * len(sequence)), tuple(str(i + 1) for i in range(len(sequence)))
        ),
        design=torch.ones(len(sequence), dtype=torch.bool) if design is None else design,
        residue_index=torch.arange(len(sequence)),
    )


def trunk(letters, seed=0):
    torch.manual_seed(seed)
    network = MPNN(WIDTH, DEPTH, letters)
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.xavier_uniform_(weight)
        else:
            nn.init.normal_(weight, std=0.1)
    return network.eval().requires_grad_(False)


def mutants(b, k, mutations, seed=0):
    rng = np.random.default_rng(seed)
    x = PROTEIN.encode([WILD])[0].repeat(b, k, 1)
    for row in x.flatten(0, 1):
        for i in rng.choice(LENGTH, mutations, replace=False):
            row[i] = (row[i] + rng.integers(1, 20)) % 20
    return Designs(x, PROTEIN)


def one_hot(designs):
    return torch.nn.functional.one_hot(designs.x, 20).double()


# ThermoMPNN ---------------------------------------------------------------------------------------


class LightAttention(nn.Module):
    """The published layer, as its equations say."""

    def __init__(self, size):
        super().__init__()
        self.feature_convolution = nn.Conv1d(size, size, 9, padding=4)
        self.attention_convolution = nn.Conv1d(size, size, 9, padding=4)

    def forward(self, x):
        return (self.feature_convolution(x) * self.attention_convolution(x).softmax(-1))[..., 0]


def thermo_parts(layers=2, attention=True, seed=0):
    network = trunk(21, seed)
    size = WIDTH * (layers + 1)
    both = nn.Sequential()
    for a, b in itertools.pairwise((size, 8, 6, 21)):
        both.append(nn.ReLU())
        both.append(nn.Linear(a, b))
    return network, LightAttention(size) if attention else None, both, nn.Linear(1, 1)


def thermo_file(path, parts):
    network, attention, both, out = parts
    state = {f"model.prot_mpnn.{k}": v for k, v in network.state_dict().items()}
    if attention is not None:
        state |= {f"model.light_attention.{k}": v for k, v in attention.state_dict().items()}
    state |= {f"model.both_out.{k}": v for k, v in both.state_dict().items()}
    state |= {f"model.ddg_out.{k}": v for k, v in out.state_dict().items()}
    torch.save({"epoch": 3, "global_step": 9, "state_dict": state}, path)
    return path


@torch.no_grad()
def thermo_ddg(parts, layers, made, position, letter):
    """Return the published ΔΔG of one mutation, site by site as published."""
    network, attention, both, out = parts
    tokens = PROTEIN.encode([made.sequence])[0]
    graph = neighbor_graph(made.coords, made.residue_index, made.chain_index, 48)
    h, e = network.encode(graph)
    embedded, states = network.W_s(tokens), []
    for layer in network.decoder_layers:
        h = layer(h, e, embedded, graph)
        states.insert(0, h)
    site = torch.cat([s[position] for s in states[:layers]] + [embedded[position]])
    if attention is not None:
        site = attention(site[None, :, None])[0]
    values = out(both(site)[:, None])[:, 0]
    return float(values[letter] - values[tokens[position]])


@pytest.mark.parametrize(("layers", "attention"), [(2, True), (2, False), (0, True), (3, True)])
def test_thermompnn_is_the_published_formula(tmp_path, layers, attention):
    parts = thermo_parts(layers, attention)
    made = structure()
    reward = inverse_folding.thermompnn(
        structure=made, checkpoint=thermo_file(tmp_path / "x.pt", parts)
    )
    seen = set()
    for position, letter in itertools.product((0, 5, 13), (0, 7, 19)):
        row = PROTEIN.encode([WILD])
        row[0, position] = letter
        expected = -thermo_ddg(parts, layers, made, position, letter)
        assert float(reward(Designs(row[None], PROTEIN))) == pytest.approx(expected, abs=1e-5)
        seen.add(round(expected, 4))
    assert len(seen) > 6


def test_thermompnn_is_zero_for_the_wild_type_and_additive(tmp_path):
    reward = inverse_folding.thermompnn(
        structure=structure(), checkpoint=thermo_file(tmp_path / "x.pt", thermo_parts())
    )
    assert reward.unit == "kcal/mol"
    assert float(reward(Designs.of([WILD], PROTEIN))) == 0.0
    designs = mutants(2, 3, 4)
    expected = reward.table[torch.arange(LENGTH), designs.x].sum(-1)
    torch.testing.assert_close(reward(designs), expected)
    torch.testing.assert_close(reward.relaxed(one_hot(designs)), expected)


def test_thermompnn_refuses_other_files(tmp_path):
    torch.save({"model_state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no ThermoMPNN checkpoint"):
        inverse_folding.thermompnn(structure=structure(), checkpoint=tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        inverse_folding.thermompnn(structure=structure(), checkpoint=tmp_path / "text.pt")
    parts = thermo_parts()
    parts[2][1] = nn.Linear(WIDTH * 3 + 1, 8)
    with pytest.raises(ValueError, match="The file is damaged"):
        inverse_folding.thermompnn(
            structure=structure(), checkpoint=thermo_file(tmp_path / "x.pt", parts)
        )


@pytest.mark.parametrize("name", ["thermompnn", "drakes_stability"])
def test_weights_that_are_not_there_say_what_to_fetch(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=f"seqalign fetch {name.replace('_', '-')}"):
        getattr(inverse_folding, name)(structure=structure())


# the oracle ---------------------------------------------------------------------------------------


def oracle_file(path, seed=0, **more):
    state = trunk(22, seed).state_dict()
    del state["W_out.weight"], state["W_out.bias"]
    head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    state |= {f"W_out_mlp.{k}": v for k, v in head.state_dict().items()}
    torch.save({"model_state_dict": state, **more}, path)
    return path


def test_the_oracle_relaxes_to_itself_with_exact_gradients(tmp_path):
    reward = inverse_folding.drakes_stability(
        structure=structure(), checkpoint=oracle_file(tmp_path / "x.pt")
    )
    designs = mutants(2, 3, 4)
    score = reward(designs)
    assert score.shape == (2, 3)
    assert len(set(score.flatten().tolist())) == 6
    torch.testing.assert_close(reward.relaxed(one_hot(designs)), score, rtol=0, atol=1e-5)
    x = (0.9 * one_hot(mutants(1, 1, 3)) + 0.1 / 20).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.relaxed(x).sum(), x)
    up, down = x.detach().clone(), x.detach().clone()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    up, down = up + 1e-2 * direction, down - 1e-2 * direction
    difference = float(reward.relaxed(up) - reward.relaxed(down)) / 2e-2
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=2e-2)


def test_the_oracle_scores_a_batch_as_its_members(tmp_path):
    reward = inverse_folding.drakes_stability(
        structure=structure(), checkpoint=oracle_file(tmp_path / "x.pt")
    )
    designs = mutants(2, 20, 4)
    torch.testing.assert_close(
        reward(designs)[1:, 3:5], reward(designs[1:, 3:5]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["6MRR", "3HTN"])
def test_the_oracle_reproduces_the_published_network(name):
    if not (FIXTURES / f"{name}.npz").is_file():
        pytest.skip("SEQALIGN_DATA does not name a data folder with fixtures/parity beside it")
    given = np.load(FIXTURES / f"{name}.npz")
    coords = torch.from_numpy(given["coords_N_CA_C_O"])
    coords[torch.from_numpy(given["mask"]) == 0] = torch.nan
    chains = [str(given["chains"])[c - 1] for c in given["chain_encoding"]]
    numbers = [str(chains[: i + 1].count(c)) for i, c in enumerate(chains)]
    made = Structure(
        name=name,
        sequence=str(given["sequence"]),
        coords=coords,
        numbering=Numbering(tuple(chains), tuple(numbers)),
        design=torch.ones(len(chains), dtype=torch.bool),
        residue_index=torch.from_numpy(given["residue_idx"]),
    )
    reward = inverse_folding.drakes_stability(
        structure=made, checkpoint=FIXTURES / "drakes_oracle_random.pt"
    )
    score = float(reward(Designs.of([made.wild_type], PROTEIN)))
    assert score == pytest.approx(float(given["oracle_score"][0]), abs=1e-5)


def test_an_oracle_and_a_model_are_told_apart(tmp_path):
    torch.save({"model_state_dict": trunk(22).state_dict()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no readout of stability"):
        inverse_folding.drakes_stability(structure=structure(), checkpoint=tmp_path / "model.pt")
    with pytest.raises(ValueError, match="is an oracle"):
        inverse_folding.mpnn_score(
            structure=structure(), checkpoint=oracle_file(tmp_path / "oracle.pt")
        )


# mpnn-score ---------------------------------------------------------------------------------------


@pytest.fixture(params=[21, 22])
def checkpoint(request, tmp_path):
    network = trunk(request.param)
    torch.save({"num_edges": 6, "model_state_dict": network.state_dict()}, tmp_path / "m.pt")
    return tmp_path / "m.pt", Weights(network, 6)


def by_hand(source, made, tokens, order):
    """Return the mean log-probability along one order, a residue at a time, from scratch."""
    backbone = source.encode(made)
    free = made.design
    total = 0.0
    for place in order.tolist():
        if not free[place]:
            continue
        before = order[: order.tolist().index(place)]
        if source.sees_masks:
            shown = torch.where(free, MASKED, tokens)
            shown[before] = tokens[before]
            log_p = backbone.logits(shown[None])[0, place, :20].log_softmax(-1)
        else:
            seen = backbone.seen(order[None])
            # what comes later must not matter: overwrite it
            shown = torch.zeros_like(tokens)
            shown[before] = tokens[before]
            log_p = backbone.logits(shown[None], seen)[0, place].log_softmax(-1)
        total += float(log_p[tokens[place]])
    return total / int(free.sum())


def test_any_order_score_is_the_chain_rule(checkpoint):
    path, source = checkpoint
    made = structure(design=torch.tensor([True] * 9 + [False] * 5), chains="A" * 9 + "B" * 5)
    reward = inverse_folding.mpnn_score(structure=made, checkpoint=path, orders=3, seed=4)
    designs = mutants(1, 2, 5)
    for score, tokens in zip(reward(designs)[0], designs.x[0], strict=True):
        expected = np.mean([by_hand(source, made, tokens, order) for order in reward.orders])
        assert float(score) == pytest.approx(expected, abs=1e-5)
    # context first
    assert all(set(order[:5].tolist()) == set(range(9, 14)) for order in reward.orders)


def test_unconditional_score_is_a_table_of_the_structure(checkpoint):
    path, source = checkpoint
    reward = inverse_folding.mpnn_score(
        structure=structure(), checkpoint=path, mode="unconditional"
    )
    backbone = source.encode(structure())
    if source.sees_masks:
        log_p = backbone.logits(torch.full((1, LENGTH), MASKED))[0, :, :20].log_softmax(-1)
    else:
        log_p = backbone.unconditional().log_softmax(-1)
    designs = mutants(2, 3, 6)
    expected = log_p[torch.arange(LENGTH), designs.x].mean(-1).double()
    torch.testing.assert_close(reward(designs), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(reward.relaxed(one_hot(designs)), reward(designs))


def test_residues_without_a_letter_are_context(checkpoint):
    made = structure(sequence=f"{WILD[:4]}X{WILD[5:]}")
    reward = inverse_folding.mpnn_score(structure=made, checkpoint=checkpoint[0])
    assert reward.wild_type == WILD[:4] + WILD[5:]
    assert int(reward.orders[0, 0]) == 4
    assert bool(reward(Designs.of([reward.wild_type], PROTEIN)).isfinite().all())


@pytest.mark.parametrize(
    ("params", "words"), [({"mode": "any"}, "mode is 'any'"), ({"orders": 0}, "orders is 0")]
)
def test_parameters_without_a_meaning_are_refused(params, words):
    with pytest.raises(ValueError, match=words):
        inverse_folding.mpnn_score(structure=structure(), **params)


def test_nothing_to_design_is_refused(checkpoint):
    made = replace(structure(), design=torch.zeros(LENGTH, dtype=torch.bool))
    with pytest.raises(ValueError, match="no residue of a chain to be designed"):
        inverse_folding.mpnn_score(structure=made, checkpoint=checkpoint[0])


@pytest.mark.parametrize("name", ["thermompnn", "drakes-stability", "mpnn-score", "mpnn-log-odds"])
def test_cards(name):
    card = yaml.safe_load((FOLDER / "cards" / f"{name}.yaml").read_text())
    assert card["name"] == name
    assert card["direction"].startswith("higher is better")
    assert card["needs"] or name == "mpnn-score"


# log-odds -----------------------------------------------------------------------------------------


def conditional_by_hand(source, given, position):
    """Return log p (20) of one residue decoded last, its own letter never seen."""
    place = inverse_folding._Place.of(source, given)
    backbone = source.encode(given)
    node = int(place.slots[position])
    if source.sees_masks:
        tokens = place.tokens.clone()
        tokens[node] = MASKED
        logits = backbone.logits(tokens[None])
    else:
        size = len(place.tokens)
        draw = torch.rand(1, size, generator=torch.Generator().manual_seed(0))[0]
        order = [n for n in draw.argsort().tolist() if n != node]
        tokens = place.tokens.clone()
        # whatever stands there, a residue decoded last is not seen
        tokens[node] = 7
        logits = backbone.logits(tokens[None], backbone.seen(torch.tensor([[*order, node]])))
    return logits[0, node, :20].double().log_softmax(-1)


def test_log_odds_are_those_of_a_residue_decoded_last(checkpoint):
    given, (path, source) = structure(), checkpoint
    reward = inverse_folding.mpnn_log_odds(structure=given, checkpoint=path)
    wild = PROTEIN.encode([WILD])[0]
    assert float(reward(Designs(wild[None, None], PROTEIN))) == 0.0
    for i in (0, 6, LENGTH - 1):
        log_p = conditional_by_hand(source, given, i)
        expected = log_p - log_p[wild[i]]
        torch.testing.assert_close(reward.table[i], expected, rtol=0, atol=1e-5)
    designs = mutants(2, 3, 4)
    assert torch.allclose(reward.relaxed(one_hot(designs)), reward(designs))
    assert reward.unit == "nats"
    assert reward.differentiable


def test_unconditional_log_odds_are_differences_of_the_unconditional_score(checkpoint):
    given, designs = structure(), mutants(1, 6, 5)
    odds = inverse_folding.mpnn_log_odds(
        structure=given, checkpoint=checkpoint[0], mode="unconditional"
    )
    score = inverse_folding.mpnn_score(
        structure=given, checkpoint=checkpoint[0], mode="unconditional"
    )
    wild = Designs(PROTEIN.encode([WILD])[:, None], PROTEIN)
    torch.testing.assert_close(odds(designs), LENGTH * (score(designs) - score(wild)))


def test_letters_of_context_chains_have_no_log_odds(checkpoint):
    design = torch.arange(LENGTH) < 9
    given = structure(design=design, chains="A" * 9 + "B" * 5)
    reward = inverse_folding.mpnn_log_odds(structure=given, checkpoint=checkpoint[0])
    assert bool((reward.table[9:] == 0).all())
    assert bool((reward.table[:9] != 0).any())


def test_log_odds_refuse_parameters_without_a_meaning():
    for params, words in (({"orders": 0}, "orders is 0"), ({"mode": "best"}, "mode is 'best'")):
        with pytest.raises(ValueError, match=words):
            inverse_folding.mpnn_log_odds(structure=structure(), **params)
