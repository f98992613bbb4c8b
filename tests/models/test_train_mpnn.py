"""Training of mpnn-mini: the split, the estimator, resuming; its shipped weights and their card."""

import dataclasses
import gzip
import io
import itertools
import json
import math
import os
import tarfile
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from backbones import BENCHMARK, backbone_of, network
from checks import mean_is
from torch import Tensor

from seqalign.models import mpnn_data, teacher
from seqalign.models import train_mpnn as training
from seqalign.models.backbone import Backbone
from seqalign.models.inverse_folding import mpnn_mini
from seqalign.models.mpnn_data import Chain
from seqalign.models.mpnn_weights import LETTERS, MASKED, Weights, embeddings, shipped
from seqalign.models.train_mpnn import Settings

DATA = Path(os.environ.get("SEQALIGN_DATA", "absent"))
needs_data = pytest.mark.skipif(
    not (DATA / mpnn_data.TRAIN).exists(), reason="needs the public structures; set SEQALIGN_DATA"
)
TINY = Settings(passes=4, residues=120, crop=40, width=16, neighbors=6, warmup=2)


def chain(name: str, letters: str, cluster: str | None = None, seed: int = 0) -> Chain:
    coords = backbone_of(len(letters), seed=seed).coords
    return Chain.of(name, cluster or name, letters, coords)


def random_letters(n: int, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    return "".join(LETTERS[i] for i in torch.randint(20, (n,), generator=generator).tolist())


@pytest.fixture(scope="module")
def parts() -> mpnn_data.Parts:
    chains = [chain(f"c{i:03}", random_letters(40 + i % 7, i), seed=i) for i in range(110)]
    return mpnn_data.split(chains, [], [])


# data ---------------------------------------------------------------------------------------------


def test_clusters_stay_whole_and_minis_are_kept_out():
    chains = [chain(f"c{i:03}", random_letters(45, i)) for i in range(100)]
    mini = chain("mini", random_letters(40, 1000))
    # an extra chain that contains a third of the mini condemns its cluster
    leaking = chain("x", random_letters(60, 1001) + letters_of(mini)[:17], cluster="c050")
    kin = [chain(f"k{i}", random_letters(50, 2000 + i), cluster=f"c{i:03}") for i in range(100)]
    parts = mpnn_data.split(chains, [*kin, leaking], [mini])
    held = {c.cluster for c in (*parts.test, *parts.validation)}
    inside = {c.cluster for group in parts.train for c in group}
    assert (len(parts.test), len(parts.validation)) == (60, 30)
    assert len(held) == 90
    assert not held & inside
    assert "c050" not in held | inside
    assert len(inside) == 9
    assert all(len({c.cluster for c in g}) == 1 and len(g) == 2 for g in parts.train)
    assert {c.name[0] for c in (*parts.test, *parts.validation)} == {"c"}
    again = mpnn_data.split(chains[::-1], [*kin, leaking], [mini])
    assert [c.name for c in again.test] == [c.name for c in parts.test]


def letters_of(c: Chain) -> str:
    return "".join(LETTERS[i] for i in c.tokens.tolist())


def test_too_little_data_is_said():
    with pytest.raises(ValueError, match="Only 3 clusters"):
        mpnn_data.split([chain(f"c{i}", random_letters(45, i)) for i in range(3)], [], [])


def test_files_are_read_and_copies_cut(tmp_path):
    unit = random_letters(60, 0)
    rows = []
    for name, letters in (("one", unit), ("two", unit + unit[:52]), ("cut", unit[:50] + unit)):
        coords = backbone_of(len(letters)).coords
        table = {a: coords[:, j].tolist() for j, a in enumerate(("N", "CA", "C", "O"))}
        rows.append({"name": name, "seq": letters, "coords": table, "cluster": name})
    path = tmp_path / "chains.jsonl.gz"
    with gzip.open(path, "wt") as out:
        out.write("".join(json.dumps(r) + "\n" for r in rows))
    one, two, cut = mpnn_data.read_chains(path)
    assert letters_of(one) == letters_of(two) == unit
    assert letters_of(cut) == unit[:50]
    assert torch.allclose(two.coords, backbone_of(112).coords[:60])
    with pytest.raises(FileNotFoundError, match="give --data"):
        mpnn_data.read_chains(tmp_path / "absent.jsonl.gz")
    with pytest.raises(FileNotFoundError, match="give --data"):
        mpnn_data.read_minis(tmp_path / "absent.tar.xz")


def test_minis_are_read_from_their_archive(tmp_path):
    structure = backbone_of(34)
    text = structure.to_pdb().encode()
    with tarfile.open(tmp_path / "minis.tar.xz", "w:xz") as archive:
        for name in ("b.pdb", "a.pdb"):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    minis = mpnn_data.read_minis(tmp_path / "minis.tar.xz")
    assert [m.name for m in minis] == ["a", "b"]
    assert letters_of(minis[0]) == structure.sequence
    assert (minis[0].coords - structure.coords).abs().max() < 1e-3


def test_batches_have_one_size_and_one_chain_per_cluster(parts):
    import random

    seen = []
    for batch in training.batches(parts.train, TINY, random.Random(0)):
        assert TINY.residues - 30 < sum(map(len, batch)) <= TINY.residues
        assert all(len(c) <= TINY.crop for c in batch)
        seen += [c.cluster for c in batch]
    assert len(seen) == len(set(seen)) > 10


def test_masks_cover_every_number_evenly():
    torch.manual_seed(0)
    counts = torch.tensor([training.masked_counts([10] * 5) for _ in range(2000)])
    assert (counts.min(), counts.max()) == (1, 10)
    share = torch.stack([(counts == m).double().mean(1) for m in range(1, 11)], 1)
    mean_is(share, 0.1)
    # stratified: each fifth of the range holds one chain of the five
    assert torch.equal(((counts - 1) // 2).sort(1).values, torch.arange(5).expand(2000, 5))


# the estimator ------------------------------------------------------------------------------------


def small() -> tuple[Backbone, Tensor]:
    structure = backbone_of(4)
    c = Chain.of("a", "a", structure.sequence, structure.coords)
    return Backbone.encode(network(), c.graph(4)), c.tokens


def exact_nll(backbone: Backbone, tokens: Tensor) -> float:
    """Average -log p over all orders, one residue at a time."""
    n, total, orders = len(tokens), 0.0, list(itertools.permutations(range(4)))
    for order in orders:
        x = torch.full((1, n), MASKED)
        for i in order:
            total -= float(backbone.logits(x)[0, i, :20].double().log_softmax(-1)[tokens[i]])
            x[0, i] = tokens[i]
    return total / len(orders)


def test_the_any_order_estimate_is_unbiased():
    backbone, tokens = small()
    draws = [
        training.any_order_nll(backbone, tokens, states=states, seed=s)
        for states in (1, 3)
        for s in range(400)
    ]
    draws = torch.tensor(draws, dtype=torch.float64).view(2, 400)
    for row in draws:
        mean_is(row, exact_nll(backbone, tokens), slack=1e-5)


def test_samples_are_drawn_letter_by_letter():
    backbone, _ = small()
    sharp = training.sampled(backbone, 4, temperature=1e-6, draws=3, seed=0)
    assert int(sharp.max()) < 20
    generator = torch.Generator().manual_seed(0)
    # at no temperature every letter is the most likely one when its turn comes
    for row, order in zip(sharp, torch.rand(3, 4, generator=generator).argsort(-1), strict=True):
        x = torch.full((1, 4), MASKED)
        for i in order.tolist():
            x[0, i] = backbone.logits(x)[0, i, :20].argmax()
        assert torch.equal(x[0], row)


def test_figures_are_those_of_the_chains(parts):
    frequencies = mpnn_data.background(parts)
    assert float(frequencies.sum()) == pytest.approx(1)
    net = training.new_network(TINY, frequencies).eval().requires_grad_(False)
    with torch.no_grad():
        net.W_out.weight.zero_()
    scores = training.evaluate(net, parts.test[:4], frequencies, neighbors=6, states=4)
    figures = training.summary(scores)
    # a network that says the background only is the background
    assert figures["perplexity"] == pytest.approx(figures["perplexity_background"], rel=0.2)
    low, high = figures["perplexity_interval"]
    assert low < figures["perplexity"] < high
    assert figures["chains"] == 4
    assert figures["residues"] == sum(map(len, parts.test[:4]))
    # at temperature 0.1 the most frequent letter is nearly always drawn
    assert figures["recovery"] == pytest.approx(figures["recovery_background"], abs=0.1)


def test_relatives_are_found_by_alignment():
    one, other = random_letters(60, 5), random_letters(60, 6)
    changed = "".join(a if i % 3 else "W" for i, a in enumerate(one))
    near = training.nearest_identity(
        [chain("a", changed), chain("b", other)], [chain("c", "AAAA" + one)]
    )
    assert 0.6 < near[0] < 0.75
    assert near[1] < 0.5


# training -----------------------------------------------------------------------------------------


def test_training_learns_and_can_be_resumed(parts, tmp_path):
    lines: list[str] = []
    whole = training.train(parts, TINY, tmp_path / "a", check_every=4, log=lines.append)
    training.train(parts, TINY, tmp_path / "b", stop=2, log=lines.append)
    resumed = training.train(parts, TINY, tmp_path / "b", log=lines.append)
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
    untrained = training.new_network(TINY)
    assert any(
        not torch.equal(p, q)
        for p, q in zip(whole.parameters(), untrained.parameters(), strict=True)
    )
    other = Settings(**{**vars(TINY), "noise": 0.3})
    with pytest.raises(ValueError, match="use the same options"):
        training.train(parts, other, tmp_path / "b")


def test_the_loss_falls_where_there_is_something_to_learn(tmp_path):
    # a helix carries A, a straight strand L
    def labelled(i: int) -> Chain:
        step = torch.tensor([[0.0, 0, 0], [1.2, 0.8, 0], [2.4, 0, 0], [2.4, -1.2, 0]])
        strand = step + torch.arange(22)[:, None, None] * torch.tensor([3.4, 0.0, 0.0]) + 30.0
        coords = torch.cat((BENCHMARK.bundle(22).coords, strand))
        return Chain.of(f"c{i:03}", f"c{i:03}", "A" * 22 + "L" * 22, coords)

    chains = [labelled(i) for i in range(100)]
    parts = mpnn_data.split(chains, [], [])
    settings = Settings(**{**vars(TINY), "passes": 8, "residues": 88, "crop": 44})
    trained = training.train(parts, settings, tmp_path, check_every=8, log=lambda line: None)
    value = training.perplexity(trained, parts.validation[:5], 6, states=4)
    frequencies = mpnn_data.background(parts)
    blind = math.exp(-float(frequencies.log()[parts.test[0].tokens].mean()))
    assert value < 0.9 * blind


# the teacher --------------------------------------------------------------------------------------


def teaching() -> Weights:
    return Weights(network(21), 6)


def test_lessons_are_the_teachers_conditionals():
    own = chain("a", random_letters(12, 3))
    given = teacher.lessons(teaching(), own, 0)
    assert given.tokens.shape == given.hidden.shape == (teacher.OWN + teacher.DRAWN, 12)
    assert torch.equal(given.tokens[: teacher.OWN].long(), own.tokens.expand(teacher.OWN, 12))
    # stratified: each share of the range of counts holds one lesson of a kind
    for rows in (given.hidden[: teacher.OWN], given.hidden[teacher.OWN :]):
        level = (rows.sum(1) - 1) / 12
        assert torch.equal((level * len(rows)).long(), torch.arange(len(rows)))
    # where all are masked but those of lower rank, one residue after the other says the same
    weights = teaching()
    taught = teacher.Teacher.of(weights, own)
    rank = torch.rand(1, 12, generator=torch.Generator().manual_seed(1))
    along = taught.log_probs(own.tokens[None], rank)[0]
    for i in range(12):
        blind = torch.where(rank >= rank[0, i], 2.0, rank)
        alone = taught.log_probs(own.tokens[None], blind)[0, i]
        assert torch.allclose(alone, along[i], atol=1e-5)


def test_a_masked_letter_is_never_seen_by_the_teacher():
    own = chain("a", random_letters(12, 3))
    other = dataclasses.replace(own, tokens=(own.tokens + 7) % 20)
    hidden = torch.arange(12) % 3 == 0
    rank = torch.where(hidden, 2.0, torch.arange(12) / 12)[None]
    taught = teacher.Teacher.of(teaching(), own)
    mixed = torch.where(hidden, other.tokens, own.tokens)[None]
    one, two = (taught.log_probs(x, rank)[0, hidden] for x in (own.tokens[None], mixed))
    assert torch.equal(one, two)


def test_a_window_takes_its_part_of_the_lessons():
    own = chain("a", random_letters(12, 3))
    own = dataclasses.replace(own, lessons=teacher.lessons(teaching(), own, 0))
    part = own.window(4, 5)
    assert own.lessons is not None
    assert part.lessons is not None
    assert torch.equal(part.lessons.log_probs, own.lessons.log_probs[:, 4:9])
    assert torch.equal(part.lessons.tokens[0].long(), part.tokens)


def test_a_student_with_lessons_says_what_the_teacher_says():
    own = [chain(f"c{i}", random_letters(20, i), seed=i) for i in range(3)]
    taught = [
        dataclasses.replace(c, lessons=teacher.lessons(teaching(), c, i)) for i, c in enumerate(own)
    ]
    torch.manual_seed(0)
    for state, c in zip(training.taught_states(taught, 1.0), taught, strict=True):
        assert c.lessons is not None
        row = [torch.equal(state.hidden, h) for h in c.lessons.hidden].index(True)
        said = c.lessons.log_probs[row].float().exp()
        assert torch.allclose(state.soft, said)
        assert torch.allclose(state.soft[state.hidden].sum(-1), torch.ones(()), atol=2e-3)
    torch.manual_seed(0)
    for state, c in zip(training.taught_states(taught, 0.0), taught, strict=True):
        # without a share for the teacher a chain's own lesson is nature's letters
        if torch.equal(state.tokens, c.tokens):
            assert torch.equal(state.soft.argmax(-1), c.tokens)
    with pytest.raises(ValueError, match="has no lessons"):
        training.taught_states([taught[0], own[1]], 0.5)


def test_lessons_are_written_read_and_learned(folder, capsys):
    saved = folder / "teacher.pt"
    torch.save({"model_state_dict": network(21).state_dict(), "num_edges": 6}, saved)
    out = folder / "lessons.safetensors"
    arguments = ["--data", str(folder), "--checkpoint", str(saved)]
    teacher.main([*arguments, "--out", str(out)])
    teacher.main([*arguments, "--judge"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["chains"] == 60
    assert figures["perplexity"] > 1
    size = ["--width", "16", "--residues", "200", "--passes", "1"]
    training.main(
        ["--data", str(folder), "--out", str(folder / "run"), *size, "--teacher", str(out)]
    )
    assert (folder / "run" / "mpnn-mini.safetensors").exists()
    parts = mpnn_data.read_parts(folder, log=lambda line: None)
    assert teacher.taught(parts, out).train[0][0].lessons is not None
    with pytest.raises(ValueError, match="is not of chain"):
        teacher.taught(dataclasses.replace(parts, train=parts.train[::-1]), out)
    with pytest.raises(FileNotFoundError, match="write it with"):
        teacher.taught(parts, folder / "absent")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Write a small data folder."""
    (tmp_path / "structures").mkdir()
    for path, count in ((mpnn_data.TRAIN, 100), (mpnn_data.EXTRA, 5)):
        with gzip.open(tmp_path / path, "wt") as out:
            for i in range(count):
                coords = backbone_of(40, seed=i).coords
                table = {a: coords[:, j].tolist() for j, a in enumerate(("N", "CA", "C", "O"))}
                row = {"name": f"c{i:03}", "seq": random_letters(40, i), "coords": table}
                out.write(json.dumps(row | {"cluster": str(i)}) + "\n")
    text = backbone_of(34).to_pdb().encode()
    with tarfile.open(tmp_path / mpnn_data.MINIS, "w:xz") as archive:
        member = tarfile.TarInfo("a.pdb")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return tmp_path


def test_the_script_trains_and_evaluates(folder, capsys):
    size = ["--width", "16", "--residues", "200"]
    arguments = ["--data", str(folder), "--out", str(folder / "run")]
    training.main([*arguments, *size, "--passes", "1"])
    file = folder / "run" / "mpnn-mini.safetensors"
    assert file.exists()
    few = ["--draws", "1", "--states", "2", "--parts", "minis", "--apart"]
    training.main([*arguments, "--evaluate", str(file), *few])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert [line["part"] for line in lines] == ["minis", "minis, apart"]
    assert all(line["chains"] == 1 and line["perplexity"] > 1 for line in lines)
    training.main([*arguments, *size, "--out", str(folder / "timed"), "--minutes", "1e-6"])
    assert "1 passes fit" in capsys.readouterr().out
    # training lets small numbers be zero; whoever called it keeps them
    assert float(torch.tensor(1e-300, dtype=torch.float64) * 1e-20) > 0


@pytest.mark.slow
def test_two_processes_train_one_network(folder):
    arguments = ["--data", str(folder), "--out", str(folder / "run"), "--width", "16"]
    training.main([*arguments, "--residues", "200", "--passes", "2", "--threads", "2"])
    state = torch.load(folder / "run" / "checkpoint.pt", weights_only=True)
    assert state["pass"] == 2
    assert state["step"] > 1


# the shipped weights ------------------------------------------------------------------------------

CARD = yaml.safe_load((files("seqalign.models") / "cards" / "mpnn-mini.yaml").read_text())


def figure(what: str, part: str) -> dict:
    found = [f for f in CARD["figures"] if f["what"] == what and f["split"].startswith(part)]
    assert len(found) == 1
    return found[0]


def test_the_shipped_weights_are_small_and_a_process():
    size = len((files("seqalign.models") / "mpnn-mini.safetensors").read_bytes())
    assert size <= 8e6
    assert sum(p.numel() for p in shipped().network.parameters()) == CARD["parameters"]
    structure = backbone_of(30)
    p = mpnn_mini(structure=structure)
    assert (p.name, p.length, p.wild_type) == ("mpnn-mini", 30, structure.sequence)
    found = embeddings(structure)
    assert found.residues.shape == (30, 96)
    # an ideal helix bundle is no place for glycine and proline, on average
    likely = found.log_probs.exp().mean(0)
    assert float(likely[LETTERS.index("A")]) > float(likely[LETTERS.index("P")])


@needs_data
@pytest.mark.slow
def test_the_card_tells_the_truth():
    parts = mpnn_data.read_parts(DATA, log=lambda line: None)
    frequencies = mpnn_data.background(parts)
    figures = training.summary(training.evaluate(shipped().network, parts.test, frequencies))
    for what, key in (
        ("any-order perplexity per residue", "perplexity"),
        ("recovery of sampled sequences, temperature 0.1", "recovery"),
    ):
        assert figure(what, "held-out")["value"] == pytest.approx(figures[key], rel=5e-3)


@needs_data
def test_held_out_chains_are_predicted_better_than_the_background():
    parts = mpnn_data.read_parts(DATA, log=lambda line: None)
    chosen = sorted(parts.test, key=len)[:12]
    value = training.perplexity(shipped().network, chosen, shipped().neighbors, states=8)
    frequencies = mpnn_data.background(parts)
    letters = torch.cat([c.tokens for c in chosen])
    assert value < 0.75 * math.exp(-float(frequencies.log()[letters].mean()))
