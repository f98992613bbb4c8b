"""Genes say their protein and keep every bound, judged by a table and a search of their own."""

from __future__ import annotations

import io
import random
import sys

import numpy as np
import pytest
from Bio import Restriction, SeqIO
from Bio.Seq import Seq

from seqalign.core.sequence import PROTEIN

pytest.importorskip("dnachisel", reason="genes need the extra: pip install 'seqalign[dna]'")

from seqalign.files import gene as module
from seqalign.files.gene import Order, genbank, gene, organisms

# the standard code, as the NCBI prints it
LETTERS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODE = dict(zip((a + b + c for a in "TCAG" for b in "TCAG" for c in "TCAG"), LETTERS, strict=True))
ENZYMES = ["BsaI", "BsmBI", "BbsI", "SapI", "NdeI", "XhoI", "BamHI", "EcoRI", "BglI", "NotI"]


def translated(dna: str) -> str:
    return "".join(CODE[dna[i : i + 3]] for i in range(0, len(dna), 3))


def gc(dna: str) -> float:
    return sum(base in "GC" for base in dna) / len(dna)


def keeps(dna: str, order: Order) -> bool:
    """Whether a fragment keeps the bounds of an order, flanks aside."""
    begin, end = len(order.prefix), len(dna) - len(order.suffix)
    size, low, high = order.window
    good = order.gc[0] <= gc(dna) <= order.gc[1]
    good &= all(low <= gc(dna[i : i + size]) <= high for i in range(len(dna) - size + 1))
    n = order.run + 1
    for i in range(len(dna) - n + 1):
        good &= len(set(dna[i : i + n])) > 1 or i + n <= begin or i >= end
    for name in order.avoid:
        enzyme = getattr(Restriction, name)
        size = enzyme.size
        for i in range(max(0, begin - size + 1), min(len(dna) - size, end - 1) + 1):
            # an enzyme cuts outside its site, so that it needs room
            good &= not enzyme.search(Seq("A" * 40 + dna[i : i + size] + "A" * 40))
    own = dna[begin:end]
    k = order.repeat
    seen = [own[i : i + k] for i in range(len(own) - k + 1)] if k else []
    for i, here in enumerate(seen):
        other = str(Seq(here).reverse_complement())
        good &= here not in seen[:i] and other not in seen[:i]
    return good


def protein(draw: random.Random, length: int) -> str:
    return "".join(draw.choice(PROTEIN.letters) for _ in range(length))


def order_of(draw: random.Random) -> Order:
    bases = [
        "".join(draw.choice("ACGT") for _ in range(draw.choice([0, 3, 11, 30]))) for _ in range(2)
    ]
    # CAT before ATG would be the site of NdeI whatever is chosen
    bases[0] += "C" * bases[0].endswith("CAT")
    return Order(
        organism=draw.choice(sorted(organisms())),
        avoid=tuple(draw.sample(ENZYMES, draw.randint(0, 4))),
        run=draw.choice([6, 8]),
        repeat=draw.choice([0, 15, 20]),
        start_met=draw.random() < 0.7,
        n_tag=draw.choice(["", "MHHHHHH-GSGS", "MGSS"]),
        c_tag=draw.choice(["", "GGS-WSHPQFEK"]),
        stop=draw.random() < 0.7,
        prefix=bases[0],
        suffix=bases[1],
        seed=draw.randint(0, 9),
    )


@pytest.mark.parametrize(
    ("seed", "n"), [(0, 40), pytest.param(1, 1000, marks=pytest.mark.slow)], ids=str
)
def test_a_gene_says_its_protein_and_keeps_every_bound(seed, n):
    draw = random.Random(seed)
    met = 0
    for i in range(n):
        order = order_of(draw)
        letters = protein(draw, draw.randint(12, 90))
        made = gene(f"d{i}", letters, order)
        begin, end = made.coding
        assert made.dna.startswith(order.prefix)
        assert made.dna.endswith(order.suffix)
        assert (begin, end) == (len(order.prefix), len(made.dna) - len(order.suffix))
        assert translated(made.dna[begin:end]) == made.protein + "*" * order.stop
        parts = order.n_tag.replace("-", "") + letters + order.c_tag.replace("-", "")
        assert made.protein == "M" * made.met + parts
        assert made.met == (order.start_met and not parts.startswith("M"))
        assert keeps(made.dna, order), (letters, order)
        assert made.gc == gc(made.dna)
        met += made.met
        for start, stop, kind, label in made.features:
            if kind in ("tag", "linker", "start"):
                assert f"{kind} {translated(made.dna[start:stop])}" == label
            elif kind == "protein":
                assert translated(made.dna[start:stop]) == letters
    assert 0 < met < n


def test_the_judge_agrees_on_spoiled_genes():
    """One base changed: the check of the package and the one of this file find the same."""
    draw = random.Random(2)
    verdicts = []
    for _ in range(400):
        order = order_of(draw)
        flanks = (order.prefix, order.suffix)
        dna = "".join(draw.choice("ACGT" if draw.random() < 0.8 else "GC") for _ in range(90))
        site = getattr(Restriction, draw.choice([*order.avoid, "BsaI"])).site.replace("N", "A")
        if draw.random() < 0.3:
            dna = dna[:50] + str(Seq(site).reverse_complement()) + dna[50:]
        if draw.random() < 0.2:
            dna = dna[:30] + "A" * draw.randint(5, 9) + dna[30:]
        if draw.random() < 0.2:
            dna += dna[: draw.randint(10, 25)]
        dna = flanks[0] + dna + flanks[1]
        assert (not module.broken_bounds(dna, order)) == keeps(dna, order), (dna, order)
        verdicts.append(keeps(dna, order))
    assert 40 < sum(verdicts) < 360
    made = gene("d", "MKTAYIAKQRQW", Order(repeat=0))
    for i in range(len(made.dna)):
        for base in set("ACGT") - {made.dna[i]}:
            other = made.dna[:i] + base + made.dna[i + 1 :]
            if translated(other) == made.protein + "*" and keeps(other, Order(repeat=0)):
                assert module._read_back(other, made.protein + "*", Order(repeat=0)) == other
            else:
                with pytest.raises(AssertionError, match="is wrong"):
                    module._read_back(other, made.protein + "*", Order(repeat=0))


def test_a_gene_depends_on_itself_alone():
    draw = random.Random(3)
    letters = [protein(draw, 60) for _ in range(5)]
    np.random.seed(8)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    genes = [gene("d", x, Order()).dna for x in letters]
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.seed(9)  # noqa: NPY002
    assert [gene("e", x, Order()).dna for x in letters[::-1]] == genes[::-1]


def test_the_organism_chooses_the_codons():
    arginines = {name: gene("d", "MSRSTRDERP", Order(name)).dna for name in organisms()}
    assert arginines["e_coli"].count("AGA") == 0
    assert arginines["s_cerevisiae"].count("AGA") == 3


def test_a_site_across_a_border_is_a_site_and_one_in_a_flank_is_meant():
    with pytest.raises(ValueError, match="NdeI at 3, across the end of the prefix"):
        gene("d", "MKTAYIAK", Order(avoid=("NdeI",), prefix="GGCAT"))
    made = gene("d", "MKTAYIAK", Order(avoid=("TAAGAA",), suffix="GAATTC"))
    assert made.dna[-9:-6] in ("TGA", "TAG")
    order = Order(prefix="GGTCTCAAATG", suffix="TGAGACC")
    assert gene("d", "MKTAYIAK", order).dna.startswith("GGTCTCAAATGATG")


@pytest.mark.parametrize(
    ("letters", "order", "said"),
    [
        ("MVKTAY", Order(avoid=("ATGGT",)), "ATGGT at 1"),
        ("W" * 12, Order(gc=(0.3, 0.8)), "20 bp at"),
        ("MFFFFFFFFFFK", Order(gc=(0.5, 0.6)), "every choice of codons has GC 2.6% to 33.3%"),
        ("MFFFFFFFFFFK", Order(gc=(0.1, 0.9), window=(20, 0.5, 0.8)), "in 20 bp from"),
        ("MAAW", Order(max_length=14), "has 15 bp, longer than --max-length 14"),
        ("MAXW", Order(), "'X' is none of the amino acids"),
    ],
)
def test_what_cannot_be_made_is_named(letters, order, said):
    with pytest.raises(ValueError, match=said) as found:
        gene("d0007_A", letters, order)
    assert "d0007_A" in str(found.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"organism": "ecoli"}, "Known are b_subtilis"),
        ({"avoid": ("BsaII",)}, "Did you mean"),
        ({"avoid": ("ATG",)}, "no enzyme and no site"),
        ({"gc": (0.7, 0.3)}, "--gc 0.7 0.3"),
        ({"window": (0, 0.1, 0.9)}, "1 or more"),
        ({"repeat": 4}, "--repeat 4"),
        ({"n_tag": "MHX"}, "--n-tag"),
        ({"suffix": "GGU"}, "--suffix"),
    ],
)
def test_an_order_that_is_none_is_a_sentence(values, said):
    with pytest.raises(ValueError, match=said):
        Order(**values)


def test_names_of_sites_in_any_case_and_sites_themselves():
    assert Order(avoid=("bsai", "gaattc", "GCNNGC")).sites == {
        "bsai": "GGTCTC",
        "gaattc": "GAATTC",
        "GCNNGC": "GCNNGC",
    }


def test_genbank_reads_back():
    draw = random.Random(4)
    order = Order(n_tag="MHHHHHH-GSGS", c_tag="GS-WSHPQFEK", prefix="GGTCTCA", suffix="TGAGACC")
    long = "a_design_of_a_long_campaign_0001_A"
    genes = [gene(name, protein(draw, 50), order) for name in ("d0001_A", "d0001_B", long)]
    records = list(SeqIO.parse(io.StringIO(genbank(genes, "about")), "genbank"))
    assert [r.id for r in records] == [one.name for one in genes]
    for one, record in zip(genes, records, strict=True):
        assert str(record.seq) == one.dna
        features = {f.qualifiers["label"][0]: f for f in record.features if f.type != "CDS"}
        assert {"prefix", "suffix", "tag MHHHHHH", "linker GSGS", "linker GS"} < set(features)
        (coding,) = (f for f in record.features if f.type == "CDS")
        assert coding.qualifiers["translation"] == [one.protein]
        assert translated(str(coding.extract(record.seq))) == one.protein + "*"
        tag = features["tag WSHPQFEK"].extract(record.seq)
        assert translated(str(tag)) == "WSHPQFEK"
    assert genbank(genes, "about") == genbank(genes, "about")


def test_without_the_extra_the_install_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "dnachisel", None)
    with pytest.raises(ImportError, match=r'pip install "seqalign\[dna\]"'):
        Order()


def test_given_ends_may_hold_a_site_and_that_is_said():
    order = Order(avoid=("NdeI",), prefix="CATATGCC")
    assert order.flanked() == ["NdeI cuts inside --prefix, which is kept as it is"]
    assert Order(avoid=("NdeI",), prefix="CATCC").flanked() == []


@pytest.mark.parametrize(("tag", "fine"), [("ATGCATCAC", False), ("GGGGGG", True), ("CATG", True)])
def test_a_tag_that_looks_like_dna_is_refused(tag, fine):
    if fine:
        assert Order(n_tag=tag).n_tag == tag
        return
    with pytest.raises(ValueError, match="looks like DNA"):
        Order(n_tag=tag)
