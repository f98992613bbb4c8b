"""pdz-mini: the map to the construct, the network's invariances, the training script, the card."""

import importlib.util
import json
import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import seqalign.models
from seqalign.core.sequence import PROTEIN
from seqalign.core.streams import Streams
from seqalign.files.numbering import Numbering
from seqalign.load import load_model
from seqalign.models.pdz import (
    BACKGROUND,
    COLUMN_OF,
    COLUMNS,
    FAMILY_ROW,
    FIX,
    NO_COLUMN,
    POSITION_OF,
    WILD_TYPE,
    OnConstruct,
    PDZNetwork,
    load_weights,
    pdz_mini,
    shipped,
)
from seqalign.models.splits import GAP
from seqalign.models.train_pdz import (
    Rows,
    Settings,
    any_order_nll,
    best_profile,
    fit_profile,
    held_out,
    main,
    mask_rows,
    new_network,
    perplexity,
    profile_nll,
    read_alignment,
    split_rows,
    train,
)

DATA = Path(os.environ.get("SEQALIGN_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "msas").exists(), reason="needs the public alignments; set SEQALIGN_DATA"
)
TINY = Settings(steps=6, batch=4, width=16, depth=1, heads=2, hidden=16, warmup=2)


def synthetic(n: int = 300, seed: int = 0) -> np.ndarray:
    """Random rows with a strong profile and gaps at the ends."""
    rng = np.random.default_rng(seed)
    rows = np.tile(rng.integers(0, 20, COLUMNS), (n, 1))
    rows = np.where(rng.random(rows.shape) < 0.7, rng.integers(0, 20, rows.shape), rows)
    rows[:, 0] = np.where(rng.random(n) < 0.5, GAP, rows[:, 0])
    return np.unique(rows, axis=0)


def fasta(rows: np.ndarray, path: Path) -> Path:
    letters = PROTEIN.letters + "?-"
    path.write_text(
        "".join(f">r{i}\n{''.join(letters[a] for a in row)}\n" for i, row in enumerate(rows))
    )
    return path


@pytest.fixture(scope="module")
def network() -> PDZNetwork:
    return shipped()


@pytest.fixture(scope="module")
def parts() -> dict[str, Rows]:
    return split_rows(synthetic(), 60)


@pytest.fixture(scope="module")
def card() -> dict:
    return yaml.safe_load(files("seqalign.models").joinpath("cards/pdz-mini.yaml").read_text())


# The package


def test_the_package_goes_by_one_name():
    spec = importlib.util.spec_from_file_location("models", seqalign.models.__file__)
    with pytest.raises(ImportError, match=r"use `import seqalign\.models`"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# The construct


def test_columns_and_positions_match_letter_by_letter():
    assert len(WILD_TYPE) == len(COLUMN_OF) == 84
    assert len(FAMILY_ROW) == len(POSITION_OF) == COLUMNS
    for column, position in enumerate(POSITION_OF):
        if FAMILY_ROW[column] == "-":
            assert position == 84
        else:
            assert WILD_TYPE[position] == FAMILY_ROW[column]
            assert COLUMN_OF[position] == column
    assert [p for p in range(84) if COLUMN_OF[p] == COLUMNS] == list(NO_COLUMN)
    assert sorted(p for p in POSITION_OF if p < 84) == sorted(set(range(84)) - set(NO_COLUMN))
    assert [i for i, a in enumerate(FAMILY_ROW) if a == "-"] == [0, 6, 23, 24, 25, 80, 81]


def test_fix_names_the_positions_without_a_column():
    space = load_model("pdz-mini").space
    assert [i for i, a in enumerate(space.fixed) if a != PROTEIN.mask_symbol] == list(NO_COLUMN)
    assert space.free == 75
    assert Numbering.plain(84).positions(FIX, "fix") == tuple(p + 1 for p in NO_COLUMN)
    process = pdz_mini()
    assert (process.length, process.steps, process.wild_type) == (84, 84, WILD_TYPE)


def test_background_is_a_distribution():
    assert sum(BACKGROUND) == pytest.approx(1, abs=1e-3)


@needs_data
def test_the_family_row_is_in_the_alignment():
    rows = read_alignment(DATA)
    token = {a: i for i, a in enumerate(PROTEIN.letters)} | {"-": GAP}
    assert (rows == [token[a] for a in FAMILY_ROW]).all(1).sum() == 1
    train_rows = split_rows(rows, 60)["train"]
    weight = torch.stack(
        [((train_rows.tokens == a).sum(1) * train_rows.weights).sum() for a in range(20)]
    )
    assert torch.allclose(weight / weight.sum(), torch.tensor(BACKGROUND).double(), atol=1e-4)


# The network


def test_weights_ship_with_the_package(network: PDZNetwork):
    count = sum(p.numel() for p in network.parameters())
    assert 100_000 < count <= 500_000
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in network.parameters())


def test_rows_of_a_batch_do_not_see_one_another(network: PDZNetwork):
    x = torch.randint(0, 22, (7, COLUMNS), generator=torch.Generator().manual_seed(0))
    together = network(x)
    assert torch.allclose(together[2:3], network(x[2:3]), atol=1e-4)
    assert torch.allclose(together[[5, 1]], network(x[[5, 1]]), atol=1e-4)


def test_training_and_inference_compute_the_same(network: PDZNetwork):
    x = torch.randint(0, 22, (3, COLUMNS), generator=torch.Generator().manual_seed(0))
    other = PDZNetwork.of(network.state_dict())
    other.train()
    assert torch.allclose(other(x), network(x), atol=1e-3)


def test_an_untrained_network_is_the_profile():
    net = new_network(Settings())
    profile = torch.randn(COLUMNS, 20)
    net.profile.data.copy_(profile)
    x = torch.randint(0, 22, (2, COLUMNS))
    assert torch.equal(net.eval()(x), profile.expand(2, -1, -1))


def test_relaxed_input_equals_tokens():
    process = pdz_mini()
    x = torch.randint(0, 21, (2, 3, 84), generator=torch.Generator().manual_seed(0))
    hard, soft = process.network(x, 0.5), process.network(process.relax(x), 0.5)
    assert hard.shape == soft.shape == (2, 3, 84, 20)
    assert torch.allclose(hard, soft, atol=1e-4)
    assert torch.equal(hard, process.network(x, 0.1))


def test_the_relaxed_input_has_gradients():
    process = pdz_mini()
    x = process.relax(torch.full((1, 1, 84), PROTEIN.mask)).requires_grad_()
    process.network(x, 1.0)[0, 0, 40].logsumexp(-1).backward()
    assert x.grad.isfinite().all()
    assert (x.grad[0, 0, 50] != 0).any()
    assert (x.grad[0, 0, list(NO_COLUMN)] == 0).all()


def test_positions_without_a_column_get_no_evidence(network: PDZNetwork):
    x = torch.randint(0, 21, (1, 4, 84), generator=torch.Generator().manual_seed(0))
    logits = OnConstruct(network)(x)
    background = torch.tensor(BACKGROUND).log()
    assert torch.equal(logits[0, :, list(NO_COLUMN)], background.expand(4, 9, 20))
    changed = x.clone()
    changed[..., list(NO_COLUMN)] = 0
    assert torch.equal(logits, OnConstruct(network)(changed))


def test_construct_logits_are_those_of_its_row(network: PDZNetwork):
    x = PROTEIN.encode([WILD_TYPE])
    token = {a: i for i, a in enumerate(PROTEIN.letters)} | {"-": GAP}
    row = network(torch.tensor([[token[a] for a in FAMILY_ROW]]))
    logits = OnConstruct(network)(x)
    assert torch.allclose(logits[0, 40], row[0, COLUMN_OF[40]], atol=1e-5)
    assert torch.allclose(logits[0, 78], row[0, COLUMN_OF[78]], atol=1e-5)


def test_the_network_prefers_the_wild_type(network: PDZNetwork):
    # Far above what letter frequencies alone would give, about 1 in 15.
    wild = PROTEIN.encode([WILD_TYPE])[0]
    rows = wild.repeat(84, 1)
    rows.fill_diagonal_(PROTEIN.mask)
    at = torch.tensor([p for p in range(84) if p not in NO_COLUMN])
    p = OnConstruct(network)(rows)[at, at].softmax(-1)[torch.arange(75), wild[at]]
    assert p.log().mean().exp() > 0.25


def test_sampled_domains_look_like_the_family():
    model, rng = load_model("pdz-mini"), Streams(0, (0,))
    process, space = model.process, model.space
    x = space.start(process.prior((1, 6), rng))
    for i in range(process.steps):
        t, s = process.times[i].item(), process.times[i + 1].item()
        x = process.transition(x, process.posterior(x, t), t, s).sample(rng.at(i))
    assert space.contains(x).all()
    designs = process.decode(x).sequences[0]
    assert len(set(designs)) == 6
    for design in designs:
        assert all(design[p] == WILD_TYPE[p] for p in NO_COLUMN)
    # The carboxylate-binding loop, GLGF in this domain, is x-phi-G-phi in nearly all of them.
    assert sum(design[13] == "G" for design in designs) >= 4


# The objective


def test_masks_cover_the_asked_number_of_residues_and_no_gap():
    tokens = torch.from_numpy(synthetic(50))
    levels = torch.linspace(0, 0.999, len(tokens))
    masked = mask_rows(tokens, levels, torch.rand(tokens.shape))
    assert not (masked & (tokens == GAP)).any()
    n = (tokens != GAP).sum(1)
    assert torch.equal(masked.sum(1), 1 + (levels * n).long())
    assert masked.sum(1)[0] == 1
    assert masked.sum(1)[-1] == n[-1]


def test_any_order_nll_of_a_profile_is_its_nll(parts: dict[str, Rows]):
    # A network that ignores its input has the same likelihood in every order, but for which
    # residues a state happens to ask for; that noise dies out with the orders.
    profile = fit_profile(parts["train"], 1.0)
    rows = parts["test"]
    estimate = any_order_nll(lambda x: profile.expand(len(x), -1, -1), rows, orders=200, seed=0)
    assert perplexity(estimate, rows) == pytest.approx(
        perplexity(profile_nll(profile, rows), rows), rel=0.01
    )


def test_a_control_removes_noise_and_no_more(parts: dict[str, Rows]):
    profile = fit_profile(parts["train"], 1.0)
    other = fit_profile(parts["train"], 30.0)
    rows = parts["test"]
    exact = perplexity(profile_nll(profile, rows), rows)
    errors = [
        abs(
            perplexity(
                any_order_nll(
                    lambda x: profile.expand(len(x), -1, -1),
                    rows,
                    orders=2,
                    seed=0,
                    control=control,
                ),
                rows,
            )
            - exact
        )
        for control in (None, other, profile)
    ]
    assert errors[0] > 3 * errors[1]
    assert errors[2] < 1e-9


def test_profile_pseudocount_is_chosen_on_validation_rows(parts: dict[str, Rows]):
    profile, pseudocount = best_profile(parts)
    rows = parts["validation"]
    best = perplexity(profile_nll(profile, rows), rows)
    for other in (0.1, 10.0):
        assert best <= perplexity(profile_nll(fit_profile(parts["train"], other), rows), rows)
    assert torch.allclose(profile.exp().sum(1), torch.ones(COLUMNS).double())
    assert pseudocount > 0


# The training script


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, parts: dict[str, Rows]):
    kwargs = {"save_every": 2, "check_every": 3, "log": lambda line: None}
    whole = train(parts, TINY, tmp_path / "whole", **kwargs)
    train(parts, TINY, tmp_path / "halves", stop=3, **kwargs)
    assert not (tmp_path / "halves" / "pdz-mini.safetensors").exists()
    torch.rand(5)  # the state of the global generator must not matter
    halves = train(parts, TINY, tmp_path / "halves", resume=True, **kwargs)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, halves.state_dict()[name]), name
    files_ = [(tmp_path / run / "pdz-mini.safetensors").read_bytes() for run in ("whole", "halves")]
    assert files_[0] == files_[1]
    read = load_weights(files_[0])
    x = torch.randint(0, 22, (2, COLUMNS))
    assert torch.allclose(read(x), whole(x), atol=1e-5)


def test_training_leaves_the_global_generator_alone(tmp_path: Path, parts: dict[str, Rows]):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train(parts, replace(TINY, steps=1), tmp_path, log=lambda line: None)
    assert torch.equal(torch.rand(3), expected)


def test_training_lowers_the_loss(tmp_path: Path, parts: dict[str, Rows]):
    settings = replace(TINY, steps=40, batch=16, gap_masking=0.0)
    before = perplexity(
        any_order_nll(new_network(settings).eval(), parts["train"], orders=4, seed=0),
        parts["train"],
    )
    trained = train(parts, settings, tmp_path, log=lambda line: None)
    after = perplexity(any_order_nll(trained, parts["train"], orders=4, seed=0), parts["train"])
    assert after < 0.9 * before


def test_resuming_under_other_settings_is_refused(tmp_path: Path, parts: dict[str, Rows]):
    train(parts, TINY, tmp_path, stop=1, log=lambda line: None)
    with pytest.raises(ValueError, match="use the same options or another --out"):
        train(parts, replace(TINY, seed=1), tmp_path, resume=True, log=lambda line: None)


def test_command_line_trains_and_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture):
    data = fasta(synthetic(), tmp_path / "msa.fasta")
    common = ["--data", str(data), "--orders", "1"]
    assert main([*common, "--out", str(tmp_path / "run"), "--steps", "2", "--batch", "2"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["settings"]["steps"] == 2
    capsys.readouterr()
    weights = tmp_path / "run" / "pdz-mini.safetensors"
    assert main([*common, "--evaluate", str(weights)]) == 0
    printed = capsys.readouterr().out
    again = json.loads(printed[printed.index("{") :])
    assert again["held_out"] == metrics["held_out"]
    assert "lower" in printed


def test_command_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture):
    data = fasta(synthetic(), tmp_path / "msa.fasta")
    assert main(["--data", str(data)]) == 2
    assert "either --out DIR" in capsys.readouterr().err
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["--data", str(data), "--evaluate", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_alignment_rules(tmp_path: Path):
    row = "A" * COLUMNS
    gappy = "-" * 21 + "A" * (COLUMNS - 21)
    just = "-" * 20 + "A" * (COLUMNS - 20)
    path = tmp_path / "a.fasta"
    path.write_text(
        f">a\n{row}\n>b\n{row[:40]}\n{row[40:]}\n>c\n{'X' + row[1:]}\n>d\n{gappy}\n>e\n{just}\n"
    )
    assert read_alignment(path).shape == (2, COLUMNS)
    path.write_text(">a\nACD\n")
    with pytest.raises(ValueError, match="sequence 1 has 3 columns and this family has 82"):
        read_alignment(path)
    path.write_text(f">a\n{gappy}\n")
    with pytest.raises(ValueError, match="none of its 1 sequences"):
        read_alignment(path)


# The card


def test_the_card_describes_the_shipped_weights(card: dict, network: PDZNetwork):
    assert card["name"] == "pdz-mini"
    assert card["kind"] == "model"
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["length"] == len(WILD_TYPE)
    assert card["alphabet"] == PROTEIN.letters
    for figure in card["figures"]:
        assert {"what", "split", "seeds", "value", "command"} <= set(figure)
        assert isinstance(figure["value"], int | float)
        assert figure["command"].startswith("python -m seqalign.models.train_pdz")
    assert all(entry.lstrip().startswith("@") for entry in card["references"])


def test_the_card_claims_at_least_the_goal(card: dict):
    figures = {(f["what"], f["split"]): f["value"] for f in card["figures"]}
    reduction = "perplexity below the profile, percent"
    assert figures[reduction, "clusters at 60 %, test"] >= 5
    assert figures[reduction, "clusters at 80 %, test"] >= 12


@needs_data
@pytest.mark.slow
def test_the_card_figure_is_what_the_script_measures(card: dict, network: PDZNetwork):
    parts = split_rows(read_alignment(DATA), 60)
    measured = held_out(network, parts, 60, orders=4)
    figures = {(f["what"], f["split"]): f["value"] for f in card["figures"]}
    claimed = figures["perplexity below the profile, percent", "clusters at 60 %, test"]
    assert measured["all"]["reduction_percent"] == pytest.approx(claimed, abs=1.0)
    counts = card["data"]["counts"]["split_60"]
    assert counts == {name: len(rows) for name, rows in parts.items()}


def test_rows_can_be_counted():
    tokens = torch.from_numpy(synthetic(5))
    assert len(Rows(tokens, torch.ones(len(tokens)), torch.arange(len(tokens)))) == len(tokens)
