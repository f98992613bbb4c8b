"""A constraint is one file: what the protocol derives, for our own and for a third party's."""

from __future__ import annotations

import itertools
import re
from dataclasses import FrozenInstanceError, dataclass, fields

import mass_plugin
import numpy as np
import pytest
import toy_plugin
from commands import call, campaign_of, exchanged

import seqalign as sa
from seqalign import registry
from seqalign.campaign.check import check as prepare
from seqalign.campaign.run import run
from seqalign.campaign.store import RunFolder
from seqalign.campaign.yaml import CampaignError, read
from seqalign.core.sequence import PROTEIN, Alphabet
from seqalign.files.numbering import Numbering
from seqalign.space import installed
from seqalign.space.composition import Composition
from seqalign.space.constraint import Constraint, ConstraintError, Positions
from seqalign.space.forbid import Forbid
from seqalign.space.max_mutations import MaxMutations
from seqalign.space.net_charge import NetCharge
from seqalign.space.pattern import forbidding
from seqalign.space.residues import Residues
from seqalign.space.space import DesignSpace

WILD = "MKTAYIAKQRQW"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy model and the mass bound, installed; a campaign without constraints."""
    monkeypatch.syspath_prepend(str(mass_plugin.install(tmp_path)))
    text = toy_plugin.CAMPAIGN.replace("max_mutations: 4", "max_mutations: 6")
    with campaign_of(tmp_path, text) as path:
        yield path


def mass(sequence: str) -> int:
    import mass_seqalign

    return mass_seqalign.WATER + sum(mass_seqalign.MASS[a] for a in sequence)


# the package's own --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", installed.keys())
def test_every_constraint_keeps_the_protocol(key):
    """Its example is valid, is built, reads back, is frozen and hashable, and has words."""
    cls = installed.find(key)
    assert cls.key == key
    chains = Numbering(("A",) * 6 + ("B",) * 6, tuple(map(str, (*range(6), *range(6)))))
    at = Positions(PROTEIN, 12, WILD, numbering=chains)
    value, comment = cls.example(at)
    assert comment
    made = installed.constraints({key: value})
    assert made
    for c in made:
        assert isinstance(c, cls)
        assert c.path[0] == key
        assert hash(c) == hash(installed.constraints({key: value})[made.index(c)])
        label, said = c.words()
        assert label
        assert said
        with pytest.raises(FrozenInstanceError):
            setattr(c, fields(c)[0].name, None)
    space = DesignSpace.build(PROTEIN, 12, wild_type=WILD, numbering=chains, **{key: value})
    assert space == DesignSpace(PROTEIN, 12, made, wild_type=WILD, numbering=chains)
    assert space.free == 12


def test_the_order_of_writing_says_nothing():
    some = (Forbid("KK"), NetCharge(max=3), MaxMutations(4), Composition("A", max=0.5))
    first = DesignSpace(PROTEIN, 12, some, wild_type=WILD)
    for order in itertools.permutations(some):
        assert DesignSpace(PROTEIN, 12, order, wild_type=WILD) == first
    assert [c.key for c in first.constraints] == [
        "max_mutations", "composition", "net_charge", "forbid",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"omit": "B"}, ("omit",)),
        ({"omit": "ACDEFGHIKLMNPQRSTVWY"}, ("omit",)),
        ({"omit": 3}, ("omit",)),
        ({"residues": {"99": {"omit": "P"}}}, ("residues", "99")),
        ({"residues": {"3": {"bias": {"B": 1}}}}, ("residues", "3")),
        ({"residues": {"3": {"alow": "A"}}}, ("residues", "3", "alow")),
        ({"tie": [[1]]}, ("tie",)),
        ({"tie": [[1, 2]], "fix": {1: "A", 2: "C"}}, ("tie",)),
        ({"homo_oligomer": [["A", "B"]]}, ("homo_oligomer",)),
        ({"max_mutations": -1}, ("max_mutations",)),
        ({"max_mutations": 1, "omit": "KT"}, ("max_mutations",)),
        ({"composition": {"A": {"max": 2}}}, ("composition", "A")),
        (
            {"composition": {"A": {"max": 0.3}, "D": {"min": 0.9}}, "omit": "D"},
            ("composition", "D"),
        ),
        ({"net_charge": {"min": 3, "max": 1}}, ("net_charge",)),
        ({"max_homopolymer": 0}, ("max_homopolymer",)),
        ({"forbid": ["("]}, ("forbid",)),
        ({"wild_type": "MK"}, ("wild_type",)),
        ({"fix": "99"}, ("fix",)),
        ({"design": "99"}, ("design",)),
        ({"nonsense": 1}, ("nonsense",)),
    ],
)
def test_an_error_carries_its_place(options, path):
    with pytest.raises(ConstraintError) as caught:
        DesignSpace.build(PROTEIN, 12, **{"wild_type": WILD, **options})
    assert caught.value.path == path


@dataclass(frozen=True)
class NoPairs(Constraint, key="no_pairs"):
    """No two K side by side: an automaton, and nothing more."""

    def automaton(self, at):
        return forbidding("KK", at.alphabet.letters)


@dataclass(frozen=True)
class Ends(Constraint, key="ends"):
    """The first letter is one of some: flags, and nothing more."""

    letters: str

    def flags(self, at):
        flags = np.ones((at.length, len(at.alphabet)), dtype=bool)
        flags[0] = [a in self.letters for a in at.alphabet.letters]
        return flags


def test_an_automaton_or_flags_are_enough():
    chains = Numbering(("A", "A", "B", "B"), ("1", "2", "1", "2"))
    space = DesignSpace(Alphabet("AKD"), 4, (NoPairs(), Ends("AK")), numbering=chains)
    words = ["".join(w) for w in itertools.product("AKD", repeat=4)]
    inside = [w for w in words if w[0] != "D" and "KK" not in (w[:2], w[2:])]
    assert [w for w in words if not space.violations(w)] == inside
    kept = space.contains(space.alphabet.encode(words)[None])[0].tolist()
    assert [w for w, ok in zip(words, kept, strict=True) if ok] == inside
    assert space.violations("DAKK") == [
        "position A1 is 'D', allowed are 'AK'",
        "no_pairs is broken at B2",
    ]
    # a letter of another alphabet is one sentence, not a crash
    assert space.violations("XAAA") == ["position A1 is 'X', allowed are 'AK'"]
    assert NoPairs().words()[0] == "No pairs"
    with pytest.raises(ConstraintError, match="no_pairs: the other constraints make it impossible"):
        DesignSpace(Alphabet("AK"), 2, (NoPairs(), Residues("1-2", allow="K")))


# a third party's ----------------------------------------------------------------------------------


def test_a_mass_bound_is_exact_by_enumeration(toy):
    made = installed.constraints({"molecular_mass": {"min": 270, "max": 330}})
    space = DesignSpace(Alphabet("AGW"), 3, made)
    words = ["".join(w) for w in itertools.product("AGW", repeat=3)]
    inside = [w for w in words if 270 <= mass(w) <= 330]
    assert 0 < len(inside) < len(words)
    assert space.exact_lookahead
    assert space.lookahead_note == "exact, molecular_mass"
    assert [w for w in words if not space.violations(w)] == inside
    assert space.violations("GGG") == ["molecular_mass is 189, at least 270 is required"]
    kept = space.contains(space.alphabet.encode(words)[None])[0].tolist()
    assert [w for w, ok in zip(words, kept, strict=True) if ok] == inside
    with pytest.raises(
        ConstraintError, match=r"molecular_mass max is 180, which .* is 189"
    ) as caught:
        DesignSpace.build(Alphabet("AGW"), 3, molecular_mass={"max": 180})
    assert caught.value.path == ("molecular_mass",)


def test_python_takes_it_by_keyword_and_as_an_object(toy):
    import mass_seqalign

    bound = mass_seqalign.MolecularMass(max=1500)
    by_key = sa.load_model("toy", molecular_mass={"max": 1500}, max_mutations=5)
    both = sa.load_model("toy", constraints=[bound], max_mutations=5)
    assert by_key.space == both.space
    assert bound in both.space.constraints
    assert "molecular_mass" in registry.names("constraint")
    result = sa.sample(both, sa.load_reward("toy-linear"), "smc", particles=8, alpha=0.5, seed=1)
    assert all(mass(s) <= 1500 for s in result.best(8).sequences)
    with pytest.raises(registry.SpecError, match="Did you mean 'molecular_mass'"):
        sa.load_model("toy", molecular_mas={"max": 1500})


def test_a_campaign_uses_it_like_any_other(toy, tmp_path):
    top = mass(WILD) - 20
    wanted = f"constraints.molecular_mass={{max: {top}}}"
    result = call("check", toy, "--set", wanted)
    assert result.exit_code == 0, result.output
    assert f"molecular_mass: molecular mass max {top}" in result.output
    assert "look-ahead: " in result.output
    assert "molecular_mass" in result.output.partition("look-ahead: ")[2].splitlines()[0]
    plan = prepare(*read(toy, [wanted]))
    assert plan.config["constraints"] == {"max_mutations": 6, "molecular_mass": {"max": top}}
    folder = RunFolder(tmp_path / "run")
    run(plan, folder)
    rows = folder.read_csv("designs.csv")
    assert rows
    assert all(mass(r["sequence"]) <= top for r in rows)
    report = (folder.path / "report.html").read_text()
    asked = re.findall(r"<li><span>(.*?)</span> (.*?)</li>", report)
    assert ("Molecular mass", f"max {top}") in asked
    assert ("At most", "6 mutations") in asked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("molecular_mass.mx=9", ["molecular_mass.mx", "unknown key", "'max'", "min"]),
        ("molecular_mass.max=heavy", ["molecular_mass.max", "'heavy'", "a valid integer"]),
        ("molecular_mass=9", ["molecular_mass", "9 is not a mapping"]),
        ("molecular_mas={max: 9}", ["molecular_mas", "Did you mean 'molecular_mass'"]),
        ("molecular_mass.max=9", ["molecular_mass", "max is 9", "the smallest feasible value is"]),
        ("broken_mass.max=9", ["broken_mass", "mass-seqalign", "ModuleNotFoundError", "remove"]),
    ],
)
def test_its_errors_name_place_value_and_cure(toy, change, words):
    with pytest.raises(CampaignError) as caught:
        prepare(*read(toy, [f"constraints.{change}"]))
    assert f"constraints.{words[0]}: " in str(caught.value)
    for part in words:
        assert part in str(caught.value)


def test_a_line_of_the_file_is_named(toy):
    line = exchanged(toy, "max_mutations: 6", "molecular_mass: {max: 9}")
    with pytest.raises(CampaignError, match=rf"c\.yaml:{line}: constraints\.molecular_mass: "):
        prepare(*read(toy))


def test_nobody_takes_the_name_of_an_own_one(tmp_path, monkeypatch):
    root = mass_plugin.install(tmp_path)
    points = root / "mass_seqalign-0.1.dist-info" / "entry_points.txt"
    points.write_text("[seqalign.constraints]\nmax_mutations = mass_seqalign:MolecularMass\n")
    monkeypatch.syspath_prepend(str(root))
    assert installed.find("max_mutations") is MaxMutations
