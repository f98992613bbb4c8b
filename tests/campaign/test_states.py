"""Several structures, one sequence: a campaign from the files to the report."""

import csv
import re
from dataclasses import replace

import pytest
import torch
from backbones import backbone_of
from commands import call, words

import seqalign as sa
from seqalign.campaign.check import check
from seqalign.campaign.letters import by_state
from seqalign.campaign.metrics import prior_log_likelihood
from seqalign.campaign.select import FILTER
from seqalign.campaign.yaml import read
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.core.streams import Streams
from seqalign.files.numbering import Numbering
from seqalign.files.states import match
from seqalign.files.structure import StructureError, read_structure

TEXT = """
version: 1
name: two
input:
  states: [a.pdb, b.pdb]
model: {name: mpnn-mini, temperature: 0.5}
rewards:
  stability: {oracle: ddg-mini}
  first: {oracle: ddg-mini, states: 1, role: final}
  second: {oracle: ddg-mini, states: 2, role: final}
sampler: {name: tds, particles: 4, alpha: 1.0}
baselines: [best_of_n]
"""
LENGTH = 18


def moved(structure, seed, by=0.8):
    """The same residues elsewhere: a wave along the chain, which moves whole residues."""
    along = torch.arange(len(structure))[:, None] / 3 + seed + torch.tensor([0.0, 2.0, 4.0])
    coords = structure.coords + by * along.sin()[:, None].float()
    return replace(structure, coords=coords, name=f"moved-{seed}")


def chain(structure, start, letters=None):
    """The first chain's residues numbered from `start`, or with other letters."""
    names = tuple(str(i + start) for i in range(len(structure)))
    return replace(
        structure,
        numbering=Numbering(structure.numbering.chains, names),
        sequence=letters or structure.sequence,
    )


@pytest.fixture
def folder(tmp_path):
    one = backbone_of(LENGTH, 3)
    for name, structure in (("a", one), ("b", moved(one, 1))):
        (tmp_path / f"{name}.pdb").write_text(structure.to_pdb())
    (tmp_path / "c.yaml").write_text(TEXT)
    return tmp_path


def test_a_campaign_of_two_states_from_files_to_report(folder):
    said = words(call("check", folder / "c.yaml"))
    assert "One sequence for 2 states: a (weight 0.5), b (weight 0.5). a names the residues" in said
    assert "Å away from it (CA)" in said
    assert "stability [kcal/mol]: weight 1, mean over 2 states, with gradient" in said
    assert "second [kcal/mol]: final, in state 2 alone" in said
    result = call("run", folder / "c.yaml")
    assert result.exit_code == 0, result.output
    report = next(folder.rglob("report.html")).read_text()
    assert "One sequence for 2 states: a (weight 0.5), b (weight 0.5)" in report
    rows = next(folder.rglob("designs.csv")).read_text().splitlines()
    head = rows[0].split(",")
    for row in rows[1:]:
        cells = dict(zip(head, row.split(","), strict=True))
        both = [float(cells[key]) for key in ("first", "second")]
        assert float(cells["stability"]) == pytest.approx(sum(both) / 2, abs=1e-4)
        assert both[0] != both[1]
    again = call("score", next(folder.rglob("designs.fasta")), "-c", folder / "c.yaml")
    assert again.exit_code == 0, again.output
    # the likelihood under each state is that of its own model, in every table
    columns = [f"prior_per_residue_{name}" for name in "ab"]
    single = [sa.load_model("mpnn-mini", structure=folder / f"{name}.pdb") for name in "ab"]
    scored = list(csv.DictReader(again.stdout.splitlines()))[1:]
    kept = list(csv.DictReader(rows))
    assert len(kept) == len(scored)
    x = PROTEIN.encode([single[0].orderable.letters(row["sequence"]) for row in kept])
    for column, model in zip(columns, single, strict=True):
        want = prior_log_likelihood(model.process, x, range(LENGTH)) / LENGTH
        for table in (kept, scored):
            found = [float(row[column]) for row in table]
            assert found == pytest.approx(want.tolist(), rel=2e-5)
        assert f"log-lik. {column[-1]}" in report
    assert kept[0][columns[0]] != kept[0][columns[1]]


def test_new_writes_a_campaign_of_states(folder):
    """What two files have in common is designed; each file's notes have its name before them."""
    one, two = (read_structure(folder / f"{name}.pdb") for name in "ab")
    short = [line for line in two.to_pdb().splitlines() if line[22:26] != "   5"]
    (folder / "b.pdb").write_text("\n".join(short))
    (folder / "x.pdb").write_text(
        "\n".join(f"{t[:21]}X{t[22:]}" for t in one.to_pdb().splitlines())
    )
    (folder / "far").mkdir()
    out = folder / "far" / "n.yaml"
    said = call("new", folder / "a.pdb", folder / "b.pdb", "--out", out)
    assert said.exit_code == 0, said.output
    assert "One sequence for a and b. a names the residues; b is 0." in words(said)
    assert "note: b lacks A5 of a." in words(said)
    text = out.read_text()
    assert '  - "../a.pdb"' in text
    assert "structure: " not in re.sub("#.*", "", text)
    campaign, source = read(out)
    assert len(campaign.input.states) == 2
    plan = check(campaign, source)
    assert plan.model.space.free == one.known.numel() - 1
    assert plan.model.space.fixed[4] == one.wild_type[4]
    # an option that only states have
    assert call("check", out, "--set", "rewards.stability.states=min").exit_code == 0
    assert "    # states: min" in text
    # chains of other names go together in their order, and are said for each
    other = folder / "o.yaml"
    assert call("new", folder / "a.pdb", folder / "x.pdb", "--out", other).exit_code == 0
    campaign, source = read(other)
    assert [state.chains for state in campaign.input.states] == [["A"], ["X"]]
    assert check(campaign, source).model.space.free == one.known.numel()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("a.pdb", "a.fasta"), "a.fasta holds no structure, and several files are states"),
        (("a.fasta", "b.pdb"), "a.fasta holds no structure"),
        (("a.pdb", "./a.pdb"), "A file is given twice"),
        (("a.pdb", "none.pdb"), "none.pdb: there is no such file"),
        (("a.pdb", "far.pdb"), "none of the residues of chain A of a is there by its number"),
    ],
)
def test_files_that_are_no_states_are_a_sentence(folder, files, said):
    (folder / "a.fasta").write_text(">a\nMKV\n")
    one = read_structure(folder / "a.pdb")
    (folder / "far.pdb").write_text(chain(one, 500).to_pdb())
    result = call("new", *(folder / file for file in files), "--out", folder / "n.yaml")
    assert result.exit_code == 2
    assert said in words(result)
    assert not (folder / "n.yaml").exists()


def test_columns_of_states_have_names_of_their_own(folder):
    one, two = (read_structure(folder / f"{name}.pdb") for name in "ab")
    states = [replace(one, name="x (1)"), replace(two, name="x_1_"), replace(one, name="x (1)")]
    model = sa.load_model("mpnn-mini", states=states)
    names = ["prior_per_residue_x_1_", "prior_per_residue_x_1__2", "prior_per_residue_x_1__3"]
    assert by_state(model) == dict(zip(names, range(3), strict=True))
    # a filter can name each of them
    assert all(FILTER.match(f"{name} > -2")[1] == name for name in names)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"states: [a.pdb, b.pdb]": "states: [a.pdb]"}, ("input.states", "two or more")),
        (
            {"states: [a.pdb, b.pdb]": "states: [a.pdb, b.pdb]\n  structure: a.pdb"},
            ("input.states", "Keep one"),
        ),
        (
            {"b.pdb]": "{structure: b.pdb, weight: 2}]"},
            ("input.states.0", "Give each a weight, or none"),
        ),
        ({"b.pdb]": "none.pdb]"}, ("input.states.1", "none.pdb")),
        ({"states: 2,": "states: 3,"}, ("rewards.second.states", "1 to 2")),
        ({"states: 2,": "states: best,"}, ("rewards.second.states", "difference")),
        (
            {"states: [a.pdb, b.pdb]": "structure: a.pdb"},
            ("rewards.first.states", "Give input.states"),
        ),
        (
            {"ddg-mini, states: 2,": "charge, states: min,"},
            ("rewards.second.states", "does not look at a structure"),
        ),
        (
            {"ddg-mini, states: 2,": "ddg-mini, states: 2, params: {structure: a.pdb},"},
            ("rewards.second.states", "Keep one"),
        ),
        ({"mpnn-mini, temperature: 0.5": "pdz-mini"}, ("model.name", "input.states gives one")),
        ({"temperature: 0.5": "temperature: 0.5, states: [a.pdb]"}, ("write input.states",)),
    ],
)
def test_what_is_wrong_is_said_with_its_place(folder, change, said):
    text = TEXT
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "c.yaml").write_text(text)
    result = call("check", folder / "c.yaml")
    assert result.exit_code == 2, result.output
    for part in said:
        assert part in words(result)


def test_a_model_of_images_has_no_states(tmp_path):
    (tmp_path / "c.yaml").write_text(
        """
version: 1
name: no
input: {states: [a.pdb, b.pdb], prompts: [a cat]}
model: {name: emoji-mini}
rewards: {match: {oracle: brightness}}
"""
    )
    result = call("check", tmp_path / "c.yaml")
    assert result.exit_code == 2, result.output
    assert "input.states: the model 'emoji-mini' draws images" in words(result)


def test_weights_and_readings_of_each_state_are_its_own(folder):
    two = moved(backbone_of(LENGTH, 5, chains=2), 2)
    (folder / "b.pdb").write_text(two.to_pdb())
    (folder / "a.pdb").write_text(backbone_of(LENGTH, 5, chains=2).to_pdb())
    text = TEXT.replace(
        "[a.pdb, b.pdb]",
        "[{structure: a.pdb, chains: [A], weight: 1}, "
        "{structure: b.pdb, chains: [A], context: [B], weight: 0.25}]",
    )
    (folder / "c.yaml").write_text(text)
    said = words(call("check", folder / "c.yaml"))
    assert "a (weight 1), b (weight 0.25)" in said
    assert f"{LENGTH // 2} positions" in said


# matching -----------------------------------------------------------------------------------------


def test_residues_go_together_by_chain_and_number():
    one = backbone_of(LENGTH, 3)
    tail = read_part(one, range(2, LENGTH))
    found = match(one, tail)
    assert found.at.tolist() == [-1, -1, *range(LENGTH - 2)]
    assert found.rmsd < 1e-4
    assert "lacks A1-2 of" in found.notes[0]
    back = match(tail, one)
    assert back.at.tolist() == list(range(2, LENGTH))
    assert "A1-2 of" in back.notes[0]
    renamed = replace(one, numbering=Numbering(("Q",) * LENGTH, one.numbering.numbers))
    assert match(one, renamed).at.tolist() == list(range(LENGTH))
    letter = "W" if one.sequence[4] != "W" else "Y"
    mutant = replace(one, sequence=one.sequence[:4] + letter + one.sequence[5:])
    assert match(one, mutant).at.tolist() == list(range(LENGTH))
    assert "other letters than" in match(one, mutant).notes[0]
    assert "A5" in match(one, mutant).notes[0]
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    turn = turn * torch.linalg.det(turn)
    turned = replace(one, coords=one.coords @ turn + 7)
    assert match(one, turned).rmsd < 1e-3
    assert match(one, replace(one, coords=one.coords * torch.tensor([1.0, 1, -1]))).rmsd > 0.5


def letters_of(result):
    return [s for row in result.samples.designs.sequences for s in row]


def read_part(structure, keep):
    keep = list(keep)
    return replace(
        structure,
        sequence="".join(structure.sequence[i] for i in keep),
        coords=structure.coords[keep],
        numbering=structure.numbering.take(keep),
        design=structure.design[keep],
        residue_index=structure.residue_index[keep],
    )


def test_what_is_no_state_of_one_sequence_is_refused():
    one = backbone_of(LENGTH, 3)
    for other, said in (
        (chain(one, 500), "numbering: index"),
        (chain(one, 4), "letters differ"),
        (backbone_of(LENGTH, 3, chains=2), "2 chains are to be designed"),
    ):
        with pytest.raises(StructureError, match=said):
            match(one, other)


def test_a_residue_that_one_state_lacks_is_kept_or_refused():
    one = backbone_of(LENGTH, 3)
    tail = moved(read_part(one, range(2, LENGTH)), 1)
    with pytest.raises(ValueError, match=r"A1-2 of .* to be designed.*fix: A1-2"):
        sa.load_model("mpnn-mini", states=[one, tail])
    model = sa.load_model("mpnn-mini", states=[one, tail], fix="A1-2")
    assert model.space.free == LENGTH - 2
    reward = sa.load_reward("ddg-mini", states=model.states, over="min")
    for method in ("das", "best_of_n"):
        result = sa.sample(model, reward, method=method, particles=4, seed=2)
        assert all(s[:2] == one.sequence[:2] for s in letters_of(result))


def test_contexts_of_states_differ_and_each_sees_its_own():
    """A target and an off-target: chain A is designed, chain B is another in each."""
    target = backbone_of(LENGTH, 5, chains=2)
    both = torch.tensor([c == "A" for c in target.numbering.chains])
    target = replace(target, design=both, name="target")
    other = "".join(
        a if d else PROTEIN.letters[(PROTEIN.letters.index(a) + 7) % 20]
        for a, d in zip(target.sequence, both.tolist(), strict=True)
    )
    off = replace(moved(target, 4), sequence=other, name="off")
    model = sa.load_model("mpnn-mini", states=[target, off])
    half = int(both.sum())
    assert model.states[1].at.tolist() == [*range(half), *[-1] * (LENGTH - half)]
    assert model.space.free == half
    one, two = (sa.load_model("mpnn-mini", structure=s).process for s in (target, off))
    x = model.space.start(model.process.prior((1, 1), Streams(0, (0,))))
    theirs = x.clone()
    theirs[..., half:] = PROTEIN.encode([other])[0, half:]
    want = 0.5 * (one.network(x, 1.0) + two.network(theirs, 1.0))[..., :half, :]
    assert torch.allclose(model.process.network(x, 1.0)[..., :half, :], want, atol=1e-5)
    reward = sa.load_reward("ddg-mini", states=model.states, over="difference")
    full = PROTEIN.encode([target.wild_type])[None]
    full[..., 2] = (full[..., 2] + 3) % 20
    alone = [
        sa.load_reward("ddg-mini", structure=s)(Designs(t, PROTEIN))
        for s, t in ((target, full), (off, torch.cat((full[..., :half], theirs[..., half:]), -1)))
    ]
    assert torch.allclose(reward(Designs(full, PROTEIN)), alone[0] - alone[1])


def test_the_published_order_is_kept_in_every_state():
    """A network that remembers: the log-likelihood of the product of a state with itself is its."""
    from backbones import network

    from seqalign.models.inverse_folding import process
    from seqalign.models.mpnn_weights import Weights

    one = backbone_of(LENGTH, 3)
    made = [process(Weights(network(21), 8), s, temperature=0.3) for s in (one, moved(one, 1))]
    x = PROTEIN.encode([one.wild_type, moved(one, 1).wild_type[::-1]])
    free = range(LENGTH)
    twice = sa.core.states.product([made[0], made[0]])
    alone, double = (prior_log_likelihood(p, x, free) for p in (made[0], twice))
    assert torch.allclose(alone, double, atol=1e-4)
    both = sa.core.states.product(made)
    quick = sa.sample(both, sa.load_reward("charge"), method="best_of_n", particles=6, seed=3)
    turned = sa.core.states.product(made[::-1])
    back = sa.sample(turned, sa.load_reward("charge"), method="best_of_n", particles=6, seed=3)
    assert letters_of(quick) == letters_of(back)
    assert letters_of(sa.sample(both, sa.load_reward("charge"), method="smc", particles=4, seed=1))


def test_files_are_read_alike(folder):
    model = sa.load_model("mpnn-mini", states=[folder / "a.pdb", folder / "b.pdb"], chains="A")
    assert [s.structure.name for s in model.states] == ["a", "b"]
    assert model.state_weights == (0.5, 0.5)
    assert model.structure == read_structure(folder / "a.pdb")
    for wrong, said in (
        ({"states": [folder / "a.pdb"]}, "two or more"),
        ({"states": folder / "a.pdb"}, "a list of structures"),
        ({"states": [], "state_weights": [1]}, "two or more"),
        ({"states": [folder / "a.pdb"] * 2, "structure": folder / "a.pdb"}, "Give one of them"),
        ({"states": [folder / "a.pdb"] * 2, "state_weights": [1, -1]}, "number > 0"),
    ):
        with pytest.raises(sa.SpecError, match=said):
            sa.load_model("mpnn-mini", **wrong)
    with pytest.raises(sa.SpecError, match="does not look at a structure"):
        sa.load_model("pdz-mini", states=[folder / "a.pdb"] * 2)
    with pytest.raises(sa.SpecError, match="Give states too"):
        sa.load_reward("ddg-mini", structure=folder / "a.pdb", over="min")
