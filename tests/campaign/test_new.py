"""`seqalign new`: what it writes passes `seqalign check`, and so does every option it shows."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
import toy_plugin
from commands import call

from seqalign import registry, weights
from seqalign.campaign.check import check as prepare
from seqalign.campaign.new import new
from seqalign.campaign.yaml import read
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import read_structure
from seqalign.load import load_model
from seqalign.models.language_checkpoints import VOCABULARY
from seqalign.space.space import DesignSpace

STRUCTURES = sorted(
    p for p in (Path(__file__).parents[1] / "files" / "structures").iterdir() if p.suffix != ".md"
)
BACKBONE = files("seqalign").joinpath("data", "3a4r.pdb")
OPTION = re.compile(r"^( *)# ([a-z_]+: .*)$", re.M)
CONSTRAINTS = {
    "omit",
    "residues",
    "tie",
    "max_mutations",
    "max_homopolymer",
    "composition",
    "forbid",
    "net_charge",
}


def pdb(path, *chains):
    """Write residues of the embedded backbone as chains (name, first, last, renumber)."""
    source = [line for line in BACKBONE.read_text().splitlines() if line.startswith("ATOM")]
    lines = []
    for k, (name, first, last, number) in enumerate(chains):
        for line in source:
            n = int(line[22:26])
            if first <= n <= last:
                x = float(line[30:38]) + 60 * k
                lines.append(f"{line[:21]}{name}{number(n):<5}{line[27:30]}{x:8.3f}{line[38:]}")
        lines.append("TER")
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def plain(n):
    return f"{n:4d} "


def uncommented(text):
    """Yield (option, text) with one option after another switched on."""
    for match in OPTION.finditer(text):
        yield match[2], text[: match.start()] + match[1] + match[2] + text[match.end() :]


def build(campaign, length, wild, numbering):
    """The design space of a campaign, without a network."""
    return DesignSpace.build(
        PROTEIN,
        length,
        wild_type=wild,
        design=campaign.design.residues,
        fix=campaign.design.fix,
        **campaign.constraints,
        numbering=numbering,
    )


SHAPES = {
    "one": [("A", 340, 352, plain)],
    "dimer": [("A", 340, 352, plain), ("B", 340, 352, plain)],
    "two": [("A", 340, 352, plain), ("B", 345, 350, plain)],
    "digits": [("1", 340, 346, plain), ("2", 340, 345, plain)],
    "negative": [("A", 340, 348, lambda n: plain(n - 343))],
    "codes": [("H", 340, 348, lambda n: f"  82{chr(n - 340 + 65)}")],
    "nameless": [(" ", 340, 348, plain)],
    "lower": [("A", 340, 346, plain), ("a", 340, 346, plain)],
    "tiny": [("A", 340, 341, plain)],
    "tail": [("A", 339, 412, plain)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_option_shown_fits_the_protein(tmp_path, shape):
    structure = pdb(tmp_path / "x.pdb", *SHAPES[shape])
    out = tmp_path / "c.yaml"
    text = new(structure, out).text
    seen = read_structure(structure)
    length, wild, names = len(seen.known), seen.wild_type, seen.known_numbering
    out.write_text(text)
    campaign, _ = read(out)
    assert build(campaign, length, wild, names).free == length
    shown = set()
    for option, changed in uncommented(text):
        out.write_text(changed)
        campaign, _ = read(out)
        assert build(campaign, length, wild, names).free >= length - 1, option
        shown.add(option.partition(":")[0])
    active = {"max_homopolymer"}
    assert shown | active >= CONSTRAINTS | {"fix", "budget", "filters", "top"}
    assert ("homo_oligomer" in shown) == (shape in ("dimer", "lower"))


@pytest.mark.parametrize("path", STRUCTURES, ids=lambda p: p.name)
def test_every_file_ends_in_a_campaign_or_a_sentence(tmp_path, path):
    try:
        seen = read_structure(path)
    except ValueError:
        with pytest.raises(ValueError, match=re.escape(path.name)):
            new(path, tmp_path / "c.yaml")
        return
    text = new(path, tmp_path / "c.yaml").text
    (tmp_path / "c.yaml").write_text(text)
    campaign, source = read(tmp_path / "c.yaml")
    assert (source.folder / campaign.input.structure).samefile(path)
    again = read_structure(path, chains=campaign.input.chains, context=campaign.input.context)
    assert again == seen
    space = build(campaign, len(seen.known), seen.wild_type, seen.known_numbering)
    assert space.free == int(seen.design[seen.known].sum())


def shipped(kind, name):
    try:
        point = registry.entry(kind, name)
        return name not in ("ddg-mini", "ddg-pairs") or (
            files("seqalign.rewards").joinpath(f"{name}.safetensors").is_file() and point
        )
    except registry.SpecError:
        return False


NEEDS = (("model", "mpnn-mini"), ("reward", "ddg-mini"), ("reward", "ddg-pairs"))


def test_a_structure_passes_check_as_written(tmp_path):
    absent = [name for kind, name in NEEDS if not shipped(kind, name)]
    if absent:
        pytest.skip(f"{', '.join(absent)} cannot be loaded in this installation")
    structure = pdb(tmp_path / "x.pdb", *SHAPES["dimer"])
    out = tmp_path / "deeper" / "c.yaml"
    result = call("new", structure, "--out", out)
    assert result.exit_code == 0, result.output
    assert "seqalign check" in result.output
    result = call("check", out)
    assert result.exit_code == 0, result.output
    assert "26 free" in result.output


def test_all_options_together_pass_prepare(tmp_path):
    """With the network, and a reward that needs no weights."""
    out = tmp_path / "c.yaml"
    text = new(pdb(tmp_path / "x.pdb", *SHAPES["dimer"]), out).text
    out.write_text(OPTION.sub(r"\1\2", text))
    plan = prepare(*read(out, ["rewards={c: {oracle: charge}}"]))
    assert plan.model.space.blocks
    assert plan.islands == 4


@pytest.mark.slow
def test_every_option_passes_prepare(tmp_path):
    out = tmp_path / "c.yaml"
    wild = tmp_path / "wild.fasta"
    wild.write_text(f">PSD-95 PDZ3\n{load_model('pdz-mini').wild_type}\n")
    for given in (wild, pdb(tmp_path / "x.pdb", *SHAPES["dimer"])):
        for option, changed in uncommented(new(given, out).text):
            out.write_text(changed)
            plan = prepare(*read(out, [] if given is wild else ["rewards={c: {oracle: charge}}"]))
            assert plan.model.space.free, option


def test_the_pdz_construct_gets_its_own_model(tmp_path):
    wild = load_model("pdz-mini").wild_type
    (tmp_path / "wild.fasta").write_text(f">PSD-95 PDZ3\n{wild}\n")
    out = tmp_path / "c.yaml"
    assert call("new", tmp_path / "wild.fasta", "--out", out).exit_code == 0
    result = call("check", out)
    assert result.exit_code == 0, result.output
    assert "at most 12 mutations" in result.output
    assert "oracle: pdz3-affinity-holdout" in out.read_text()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random ESM-2 in transformers' format."""
    transformers = pytest.importorskip("transformers")
    config = transformers.EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=1026,
        position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("esm")
    transformers.EsmForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return folder


def test_any_other_wild_type_gets_a_language_model(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path / "none"))
    (tmp_path / "wild.fasta").write_text(">mine\nMKTAYIAKQRQW\n")
    out = tmp_path / "c.yaml"
    result = call("new", tmp_path / "wild.fasta", "--out", out)
    assert result.exit_code == 0
    assert "seqalign fetch esm2_t6_8M_UR50D" in result.output
    data = json.loads(
        call("new", tmp_path / "wild.fasta", "--out", out, "--force", "--json").stdout
    )
    assert data["model"] == "esm2"
    assert "seqalign fetch" in data["notes"][0]
    result = call("check", out)
    assert result.exit_code == 4
    assert "seqalign fetch esm2_t6_8M_UR50D" in result.output
    result = call("check", out, "--set", f"model.checkpoint={tiny}")
    assert result.exit_code == 0, result.output


def test_a_model_of_a_third_party(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(toy_plugin.install(tmp_path)))
    (tmp_path / "wild.fasta").write_text(">mine\nMKTAYIAKQRQW\n")
    out = tmp_path / "c.yaml"
    assert call("new", tmp_path / "wild.fasta", "--out", out, "--model", "toy").exit_code == 0
    assert call("check", out).exit_code == 0
    assert "keep the wild type" in out.read_text()


def test_nothing_is_overwritten_unasked(tmp_path):
    structure = pdb(tmp_path / "x.pdb", *SHAPES["one"])
    out = tmp_path / "c.yaml"
    out.write_text("mine")
    result = call("new", structure, "--out", out)
    assert result.exit_code == 2
    assert "--force" in result.output
    assert out.read_text() == "mine"
    assert call("new", structure, "--out", out, "--force").exit_code == 0
    assert out.read_text() != "mine"
    assert call("new", structure, "--out", tmp_path).exit_code == 2


FASTA = {
    "two": (">a\nMKT\n>b\nMKT\n", [], "2 sequences"),
    "empty": ("", [], "is empty"),
    "headless": ("MKT\n", [], "starts with '>'"),
    "letter": (">a\nMKB\n", [], "letter 3 is 'B'"),
    "chains": (">a\nMKT/MKT\n", [], "need a structure"),
    "dna": (">a\nACGTACGTACGTACGTACGT\n", [], "looks like DNA"),
    "backbone model": (">a\nMKT\n", ["--model", "mpnn-mini"], "designs for a backbone"),
    "other construct": (">a\nMKT\n", ["--model", "pdz-mini"], "one construct of 84 residues"),
    "no such model": (">a\nMKT\n", ["--model", "esm3"], "esm2"),
}


@pytest.mark.parametrize("case", FASTA)
def test_a_wrong_wild_type_is_a_sentence(tmp_path, case):
    text, options, words = FASTA[case]
    path = tmp_path / "wild.fasta"
    path.write_text(text)
    result = call("new", path, "--out", tmp_path / "c.yaml", *options)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "c.yaml").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.csv", "cannot be done yet"),
        ("x.docx", ".docx is not known"),
        ("x", "a name without an ending"),
        ("none.pdb", "there is no such file"),
        ("none.fasta", "there is no such file"),
    ],
)
def test_a_file_of_another_kind_is_a_sentence(tmp_path, name, words):
    if not name.startswith("none"):
        (tmp_path / name).write_text("a,b\n")
    result = call("new", tmp_path / name, "--out", tmp_path / "c.yaml")
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())


def test_a_model_that_sees_no_structure_is_refused(tmp_path):
    structure = pdb(tmp_path / "x.pdb", *SHAPES["one"])
    result = call("new", structure, "--out", tmp_path / "c.yaml", "--model", "pdz-mini")
    assert result.exit_code == 2
    assert "mpnn-mini" in result.output


def test_author_numbers_stand_in_the_comments(tmp_path):
    structure = pdb(tmp_path / "x.pdb", *SHAPES["two"])
    text = new(structure, tmp_path / "c.yaml").text
    for words in ("A340 ", "B345 ", "chains: [A, B]", '"A340-352, B345-350"'):
        assert words in text


@pytest.mark.parametrize("model", ["proteinmpnn", "ligandmpnn", "fmif"])
def test_missing_weights_are_noted(tmp_path, monkeypatch, model):
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path / "none"))
    made = call("new", BACKBONE, "--model", model, "--out", tmp_path / "c.yaml", "--json")
    (note,) = json.loads(made.stdout)["notes"]
    assert f"seqalign fetch {model}" in note


@pytest.mark.parametrize("there", [True, False])
def test_a_backbone_gets_proteinmpnn_where_it_was_fetched(tmp_path, monkeypatch, there):
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path / "weights"))
    if there:
        (part,) = weights.catalog()["proteinmpnn-v_48_020"].parts
        target = tmp_path / "weights" / part.path
        target.parent.mkdir(parents=True)
        with target.open("wb") as file:
            file.truncate(part.size)
    made = call("new", BACKBONE, "--out", tmp_path / "c.yaml", "--json")
    data = json.loads(made.stdout)
    text = (tmp_path / "c.yaml").read_text()
    if there:
        assert data["model"] == "proteinmpnn"
        assert re.search(r"name: proteinmpnn +# .*weights proteinmpnn-v_48_020$", text, re.M)
    else:
        assert data["model"] == "mpnn-mini"
        assert re.search(r"name: mpnn-mini +# embedded; seqalign fetch proteinmpnn", text, re.M)
    assert data["notes"] == []
    assert all(len(line) <= 100 for line in text.splitlines() if "name: " in line)
    assert read(tmp_path / "c.yaml")[0].model.name == data["model"]
    # a model that is asked for is taken
    again = call("new", BACKBONE, "--out", tmp_path / "d.yaml", "--model", "mpnn-mini", "--json")
    assert json.loads(again.stdout)["model"] == "mpnn-mini"
