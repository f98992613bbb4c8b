"""Protein language models as masked diffusion, and their pseudo-likelihood.

The checkpoints are tiny and random, but in the formats of the published ones: fair-esm's .pt,
transformers' folder, DPLM's training checkpoint.
"""

from __future__ import annotations

import copy
import json
import math
import types
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from commands import imported
from pretended import Far, pretended_gpu
from safetensors.torch import save_file

import seqalign as sa
from seqalign import weights
from seqalign.core.objective import evaluate
from seqalign.core.process import Designs
from seqalign.core.sequence import DNA, PROTEIN
from seqalign.core.streams import Streams
from seqalign.load import load_reward
from seqalign.methods.smc import PlainSMC
from seqalign.models import language_checkpoints
from seqalign.models.language import SPECIAL, dplm, esm2, load_language_model
from seqalign.models.language_checkpoints import VOCABULARY, to_transformers
from seqalign.registry import SpecError
from seqalign.rewards.language import pseudo_log_likelihood
from seqalign.space.space import DesignSpace

WILD_TYPE = "MKTAYIAKQRQW"
MASK = PROTEIN.mask
LAYERS, WIDTH, HEADS = 2, 16, 2
CONFIG = {
    "_name_or_path": "tiny",
    "architectures": ["EsmForMaskedLM"],
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": None,
    "emb_layer_norm_before": False,
    "esmfold_config": None,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 4 * WIDTH,
    "is_folding_model": False,
    "layer_norm_eps": 1e-05,
    "mask_token_id": 32,
    "max_position_embeddings": 1026,
    "model_type": "esm",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 1,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "torch_dtype": "float32",
    "transformers_version": "4.25.0.dev0",
    "use_cache": True,
    "vocab_list": None,
    "vocab_size": 33,
}


def fair_state(seed: int = 0, scale: float = 0.3) -> dict[str, torch.Tensor]:
    """A random state dict of fair-esm's ESM-2 with the names its checkpoints use."""
    from esm.model.esm2 import ESM2

    network = ESM2(LAYERS, WIDTH, HEADS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            noise = scale * torch.randn(p.shape, generator=generator)
            p.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
    state = {}
    for name, tensor in network.state_dict().items():
        # published checkpoints keep the contact regression in a file of its own
        if not name.startswith("contact_head"):
            prefix = "encoder." if name.startswith("lm_head") else "encoder.sentence_encoder."
            state[prefix + name] = tensor.clone()
    return state


def write_fair(path, seed=0, token_dropout=True):
    settings = Namespace(
        arch="roberta_large",
        encoder_layers=LAYERS,
        encoder_embed_dim=WIDTH,
        encoder_attention_heads=HEADS,
        token_dropout=token_dropout,
    )
    torch.save({"cfg": {"model": settings}, "model": fair_state(seed)}, path)
    return path


def write_folder(folder, state, weights_name="model.safetensors", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    if weights_name.endswith(".safetensors"):
        save_file({k: v.contiguous() for k, v in state.items()}, folder / weights_name)
    else:
        torch.save(state, folder / weights_name)
    return folder


def published_state(seed=0):
    """What the folders on the hub hold: the tied output layer left out, old extras left in."""
    state = {k: v for k, v in to_transformers(fair_state(seed)).items() if "decoder" not in k}
    state["esm.embeddings.position_embeddings.weight"] = torch.zeros(1026, WIDTH)
    state["esm.contact_head.regression.weight"] = torch.zeros(1, LAYERS * HEADS)
    state["esm.contact_head.regression.bias"] = torch.zeros(1)
    return state


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "fair": write_fair(root / "esm2_tiny.pt"),
        "folder": write_folder(root / "hub", published_state()),
        "no-dropout": write_folder(root / "plain", published_state(), token_dropout=False),
    }


@pytest.fixture(scope="module", params=["fair", "folder", "no-dropout"])
def model(request, places):
    return load_language_model(places[request.param])


def states(b=2, k=3, length=9, seed=0, masked=0.4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 20, (b, k, length), generator=generator)
    return torch.where(torch.rand(x.shape, generator=generator) < masked, MASK, x)


# the two libraries --------------------------------------------------------------------------------


def test_the_vocabulary_is_the_libraries_own(places):
    from esm.data import Alphabet

    alphabet = Alphabet.from_architecture("ESM-1b")
    assert tuple(alphabet.all_toks) == VOCABULARY
    for place in places.values():
        found = load_language_model(place)
        assert found.vocabulary.tolist() == [
            alphabet.get_idx(a) for a in (*PROTEIN.letters, "<mask>")
        ]
        assert [found.cls, found.pad, found.eos] == [VOCABULARY.index(s) for s in SPECIAL[:3]]


@pytest.mark.parametrize("masked", [0.0, 0.15, 0.6, 1.0])
@pytest.mark.parametrize("token_dropout", [True, False])
def test_fair_esm_and_transformers_give_the_same_logits(tmp_path, masked, token_dropout):
    fair = load_language_model(write_fair(tmp_path / "a.pt", 3, token_dropout))
    other = load_language_model(
        write_folder(tmp_path / "b", to_transformers(fair_state(3)), token_dropout=token_dropout)
    )
    assert (fair.library, other.library) == ("fair-esm", "transformers")
    assert fair.token_dropout == other.token_dropout == token_dropout
    x = states(2, 3, 17, masked=masked)
    mask = torch.arange(17) < torch.tensor([[17], [11]])
    for islands in (None, mask):
        a, b = fair(x, event_mask=islands), other(x, event_mask=islands)
        assert a.std() > 0.1
        assert (a - b).abs().max() < 1e-5


def test_token_dropout_rescales_at_inference(places):
    """A network of our own writing for the embeddings: what enters the first layer."""
    for place in ("fair", "folder"):
        model = load_language_model(places[place])
        first = (
            model.network.layers[0]
            if model.library == "fair-esm"
            else model.network.esm.encoder.layer[0]
        )
        table = (
            model.network.embed_tokens
            if model.library == "fair-esm"
            else model.network.esm.embeddings.word_embeddings
        ).weight
        seen = []
        hook = first.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0]))
        x = PROTEIN.encode(["MK__YIA_"])[None]
        model(x)
        hook.remove()
        entered = seen[0].squeeze()
        letters = [VOCABULARY.index(a) for a in ("<cls>", *"MKAAYIAA", "<eos>")]
        expected = table[letters] * (1 - 0.15 * 0.8) / (1 - 3 / 10)
        expected[[3, 4, 8]] = 0.0
        assert torch.allclose(entered, expected, atol=1e-6)


@pytest.mark.parametrize("place", ["fair", "folder"])
def test_logits_are_the_librarys_for_its_own_tokens(places, place):
    model = load_language_model(places[place])
    if place == "fair":
        from esm.data import Alphabet

        convert = Alphabet.from_architecture("ESM-1b").get_batch_converter()
        ids = convert([("a", "MK<mask>AYIAKQ"), ("b", "MKTAYIAKQ")])[2]
        theirs = model.network(ids)["logits"]
    else:
        from transformers import EsmTokenizer

        tokenizer = EsmTokenizer(str(places[place] / "vocab.txt"))
        ids = tokenizer(["MK<mask>AYIAKQ", "MKTAYIAKQ"], return_tensors="pt")
        theirs = model.network(**ids).logits
    columns = [VOCABULARY.index(a) for a in PROTEIN.letters]
    ours = model(PROTEIN.encode(["MK_AYIAKQ", "MKTAYIAKQ"])[None])
    assert torch.allclose(ours[0], theirs[:, 1:-1, columns].detach(), atol=1e-6)


def test_the_mask_is_the_mask_token(places):
    """A masked position does not depend on what its letter was; a shown one does."""
    model = load_language_model(places["fair"])
    ids = []
    run = model.network.forward
    try:
        model.network.forward = lambda tokens: (ids.append(tokens), run(tokens))[1]
        model(PROTEIN.encode(["A_C"])[None])
    finally:
        del model.network.forward
    assert [VOCABULARY[i] for i in ids[0][0]] == ["<cls>", "A", "<mask>", "C", "<eos>"]


def test_a_checkpoint_saved_by_transformers_itself(tmp_path):
    from transformers import EsmConfig, EsmForMaskedLM

    torch.manual_seed(0)
    network = EsmForMaskedLM(EsmConfig(**(CONFIG | {"initializer_range": 0.5}))).eval()
    network.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    x = states()
    ours = load_language_model(tmp_path)(x)
    ids = torch.tensor([VOCABULARY.index(a) for a in (*PROTEIN.letters, "<mask>")])[x[1]]
    ids = torch.cat((torch.zeros(3, 1).long(), ids, torch.full((3, 1), 2)), 1)
    theirs = network(ids, attention_mask=torch.ones_like(ids)).logits
    columns = [VOCABULARY.index(a) for a in PROTEIN.letters]
    assert torch.allclose(ours[1], theirs[:, 1:-1, columns], atol=1e-5)


# DPLM ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["hub", "net", "trainer", "sharded"])
def test_dplm_checkpoints(tmp_path, form):
    state = to_transformers(fair_state(5))
    # DPLM's output layer was trained apart from its embedding
    state["lm_head.decoder.weight"] = state["lm_head.decoder.weight"] + 0.1
    changes = {"architectures": ["EsmForDPLM"], "hidden_dropout_prob": 0.1}
    expected = load_language_model(write_folder(tmp_path / "plain", state, **changes))
    place = tmp_path / form
    if form == "hub":
        write_folder(place, state, "pytorch_model.bin", **changes)
    elif form == "net":
        write_folder(place, {f"net.{k}": v for k, v in state.items()}, **changes)
    elif form == "trainer":
        module = {f"model.net.{k}": v for k, v in state.items()}
        write_folder(place, {"module": module, "global_step": 7}, "last.ckpt", **changes)
    else:
        write_folder(place, {}, "pytorch_model-00000.bin", **changes)
        keys = list(state)
        parts = {"a.bin": keys[:9], "b.bin": keys[9:]}
        index = {k: part for part, some in parts.items() for k in some}
        for part, some in parts.items():
            torch.save({k: state[k] for k in some}, place / part)
        (place / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    process = dplm(checkpoint=place, wild_type=WILD_TYPE)
    assert process.name == "dplm"
    x = states(1, 4, len(WILD_TYPE))
    assert torch.equal(process.network(x, 0.5), expected(x))
    tied = {k: v for k, v in state.items() if "decoder" not in k}
    other = load_language_model(write_folder(tmp_path / "tied", tied, **changes))
    assert (other(x) - expected(x)).abs().max() > 1e-3


# laws ---------------------------------------------------------------------------------------------


def test_padded_is_alone(model):
    x = states(3, 2, 14)
    lengths = [14, 5, 9]
    mask = torch.arange(14) < torch.tensor(lengths)[:, None]
    # gaps in the middle are as good as gaps at the end
    mask[1] = mask[1][torch.randperm(14, generator=torch.Generator().manual_seed(1))]
    together = model(x, event_mask=mask)
    for b in range(3):
        alone = model(x[b : b + 1, :, mask[b]])
        assert torch.allclose(together[b : b + 1, :, mask[b]], alone, atol=1e-5)
        assert not together[b, :, ~mask[b]].any()
    # what stands at padding is never read
    noise = torch.where(mask[:, None], x, states(3, 2, 14, seed=9, masked=0.5))
    assert torch.equal(model(noise, event_mask=mask), together)
    with pytest.raises(ValueError, match="one row per island"):
        model(x, event_mask=mask[:2])


def test_the_batch_does_not_matter(model):
    x = states(2, 6, 11)
    whole = model(x)
    for b in range(2):
        for k in range(6):
            assert torch.allclose(model(x[b : b + 1, k : k + 1]), whole[b, k], atol=1e-5)


def test_relaxed_states_agree_with_tokens_and_have_the_right_gradient(model):
    x = states(2, 2, 7)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    hot = torch.nn.functional.one_hot(x, 21).double()
    for islands in (None, mask):
        assert torch.allclose(
            model(hot, event_mask=islands), model(x, event_mask=islands), atol=1e-5
        )
    # between the corners: the gradient is the slope, at masked positions too
    start = (0.7 * hot + 0.3 / 21).requires_grad_()
    weight = torch.randn(2, 2, 7, 20, generator=torch.Generator().manual_seed(2))
    (g,) = torch.autograd.grad((model(start) * weight).sum(), start)
    towards = torch.randn(hot.shape, generator=torch.Generator().manual_seed(3)).double()
    double = replace(model, network=copy.deepcopy(model.network).double())

    def at(h: float) -> float:
        # float64 inside: only the cut to float32 at the end limits the slope
        return float((double(start.detach() + h * towards) * weight).sum())

    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    assert math.isclose(float((g * towards).sum()), slope, rel_tol=2e-3)
    assert (g[x == MASK][:, :20].abs().sum(-1) > 0).all()


def test_posteriors_are_normalized_and_know_what_is_shown(places):
    process = esm2(checkpoint=places["folder"], wild_type=WILD_TYPE, temperature=0.5)
    x = states(2, 3, len(WILD_TYPE))
    posterior = process.posterior(x, 0.5)
    assert posterior.mean.shape == (2, 3, len(WILD_TYPE), 20)
    assert torch.allclose(posterior.mean.sum(-1), torch.ones(x.shape), atol=1e-5)
    known = x != MASK
    assert (posterior.mode[known] == x[known]).all()
    assert (posterior.mean.max(-1).values[known] == 1).all()
    expected = torch.softmax(process.network(x, 0.5)[~known] / 0.5, -1)
    assert torch.allclose(posterior.mean[~known], expected, atol=1e-6)
    assert not process.takes_time


def test_islands_of_different_length_through_the_process(places):
    process = esm2(checkpoint=places["fair"], length=10, chunk=2)
    mask = torch.arange(10) < torch.tensor([[10], [6]])
    both = replace(process, event_mask=mask)
    x = torch.where(mask[:, None], states(2, 3, 10), 0)
    short = esm2(checkpoint=places["fair"], length=6)
    assert torch.allclose(
        both.posterior(x, 0.5).mean[1, :, :6], short.posterior(x[1:, :, :6], 0.5).mean[0], atol=1e-5
    )
    assert torch.allclose(
        both.take([1]).posterior(x[1:], 0.5).mean, both.posterior(x, 0.5).mean[1:], atol=1e-5
    )
    reward = pseudo_log_likelihood(checkpoint=places["fair"], mode="unmasked")
    samples = PlainSMC(alpha=0.5)(both, reward, (2, 4), rng=Streams(0, range(2)))
    assert [len(s[0]) for s in samples.designs.sequences] == [10, 6]


def test_a_run_around_a_wild_type(places):
    """Ten steps, two positions fixed: what is fixed stays, and weights add up."""
    process = esm2(checkpoint=places["fair"], wild_type=WILD_TYPE, chunk=3)
    space = DesignSpace.build(PROTEIN, len(WILD_TYPE), wild_type=WILD_TYPE, fix="1, 12", omit="C")
    process = replace(process, steps=10)
    assert space.free == 10
    reward = pseudo_log_likelihood(checkpoint=places["fair"], chunk=16)
    samples = PlainSMC(alpha=0.2)(process, reward, (2, 6), rng=Streams(1, range(2)), space=space)
    designs = [s for island in samples.designs.sequences for s in island]
    assert {s[0] for s in designs} == {"M"}
    assert {s[-1] for s in designs} == {"W"}
    assert not set("".join(designs)) - set(PROTEIN.letters.replace("C", ""))
    assert len(samples.trace) == 11
    assert torch.isfinite(samples.log_w).all()
    assert torch.allclose(samples.rewards, reward(samples.designs), atol=1e-5)


@pytest.mark.parametrize(("place", "through"), [("fair", "posterior"), ("folder", "network")])
def test_a_run_on_a_gpu_gives_the_designs_of_the_cpu(places, monkeypatch, place, through):
    found = []
    method = sa.load_method("tds", alpha=0.5, tilt={"through": through})
    for device in ("cpu", "cuda"):
        with pretended_gpu(monkeypatch):
            model = sa.load_model(
                "esm2", checkpoint=places[place], wild_type=WILD_TYPE, device=device, chunk=2
            )
            found.append(sa.sample(model, sa.load_reward("charge"), method, particles=3).samples)
    a, b = found
    assert not isinstance(b.x, Far)
    assert torch.equal(a.x, b.x)
    assert torch.allclose(a.log_w, b.log_w, atol=1e-3)


def test_guidance_through_the_network_runs(places):
    process = esm2(checkpoint=places["folder"], length=5)
    reward = pseudo_log_likelihood(checkpoint=places["folder"], mode="unmasked")
    for through in ("posterior", "network"):
        method = sa.load_method("tds", alpha=0.5, tilt={"through": through})
        samples = method(process, reward, (1, 3), rng=Streams(0, [0]))
        assert torch.isfinite(samples.log_w).all()


def test_only_letters_come_out(places):
    """A checkpoint that wants X everywhere still gives the twenty letters."""
    state = to_transformers(fair_state(1))
    state["lm_head.bias"] = torch.zeros(33)
    state["lm_head.bias"][[VOCABULARY.index(s) for s in ("X", "<mask>", "-", "<eos>")]] = 50.0
    place = write_folder(places["folder"].parent / "wants-x", state)
    process = esm2(checkpoint=place, length=8)
    reward = pseudo_log_likelihood(checkpoint=place, mode="unmasked")
    samples = PlainSMC(alpha=1.0)(process, reward, (1, 16), rng=Streams(0, [0]))
    assert not set("".join(samples.designs.sequences[0])) - set(PROTEIN.letters)


# pseudo-likelihood --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["fair", "folder"])
def test_pll_is_the_mean_over_positions_masked_one_by_one(places, place):
    sequences = ["MKTAYIAKQ", "WWWWWWWWW", "ACDEFGHIK"]
    network = load_language_model(places[place]).network
    columns = [VOCABULARY.index(a) for a in PROTEIN.letters]

    def forward(ids):
        return network(ids)["logits"] if place == "fair" else network(ids, ids != 1).logits

    expected, unmasked = [], []
    for s in sequences:
        ids = torch.tensor([[VOCABULARY.index(a) for a in ("<cls>", *s, "<eos>")]])
        parts = []
        for i, a in enumerate(s):
            hidden = ids.clone()
            hidden[0, i + 1] = VOCABULARY.index("<mask>")
            law = torch.log_softmax(forward(hidden)[0, i + 1, columns].double(), -1)
            parts.append(float(law[PROTEIN.letters.index(a)]))
        expected.append(sum(parts) / len(s))
        law = torch.log_softmax(forward(ids)[0, 1:-1, columns].double(), -1)
        unmasked.append(float(law[range(len(s)), PROTEIN.encode([s])[0]].mean()))
    designs = Designs.of(sequences, PROTEIN)
    for chunk in (1, 4, 100):
        reward = pseudo_log_likelihood(checkpoint=places[place], chunk=chunk)
        assert reward(designs)[0].tolist() == pytest.approx(expected, abs=1e-5)
    reward = pseudo_log_likelihood(checkpoint=places[place], mode="unmasked", chunk=2)
    assert reward(designs)[0].tolist() == pytest.approx(unmasked, abs=1e-5)
    assert unmasked != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("mode", ["masked", "unmasked"])
def test_pll_of_islands_of_different_length(places, mode):
    reward = pseudo_log_likelihood(checkpoint=places["fair"], mode=mode, chunk=5)
    x = states(2, 3, 8, masked=0.0)
    mask = torch.arange(8) < torch.tensor([[8], [5]])
    scores = reward(Designs(x, PROTEIN, mask))
    assert torch.allclose(scores[0], reward(Designs(x[:1], PROTEIN))[0], atol=1e-5)
    assert torch.allclose(scores[1], reward(Designs(x[1:, :, :5], PROTEIN))[0], atol=1e-5)
    assert (scores < 0).all()


def test_pll_never_shows_the_network_more_than_a_chunk(places, monkeypatch):
    reward = pseudo_log_likelihood(checkpoint=places["fair"], chunk=7)
    sizes = []
    run = type(reward.model)._run
    monkeypatch.setattr(
        type(reward.model), "_run", lambda self, ids: (sizes.append(len(ids)), run(self, ids))[1]
    )
    reward(Designs(states(2, 5, 9, masked=0.0), PROTEIN))
    assert sum(sizes) == 2 * 5 * 9
    assert max(sizes) == 7


def test_pll_leaves_designs_alone_and_is_a_reward(places):
    reward = load_reward("esm2-pll", checkpoint=str(places["fair"]))
    assert (reward.name, reward.unit, reward.differentiable) == ("esm2-pll", "nats", False)
    assert reward.cost > 0
    x = states(1, 2, 6, masked=0.0)
    before = x.clone()
    assert evaluate(reward, Designs(x, PROTEIN)).shape == (1, 2)
    assert torch.equal(x, before)


def test_the_unmasked_approximation_is_differentiable(places):
    reward = pseudo_log_likelihood(checkpoint=places["folder"], mode="unmasked")
    x = states(2, 2, 6, masked=0.0)
    hot = torch.nn.functional.one_hot(x, 20).double().requires_grad_()
    value = reward.relaxed(hot)
    assert torch.allclose(value, reward(Designs(x, PROTEIN)), atol=1e-5)
    (g,) = torch.autograd.grad(value.sum(), hot)
    assert torch.isfinite(g).all()
    assert g.abs().sum() > 0
    exact = pseudo_log_likelihood(checkpoint=places["folder"])
    with pytest.raises(TypeError, match="unmasked"):
        exact.relaxed(hot)


def test_half_precision_is_near(places):
    x = states(2, 3, 12)
    exact = load_language_model(places["fair"], device="cpu")(x)
    half = load_language_model(places["fair"], device="cpu", precision="bfloat16")(x)
    assert half.dtype == torch.float32
    gap = (torch.log_softmax(half, -1) - torch.log_softmax(exact, -1)).abs().max()
    assert 0 < gap < 0.1


# sentences ----------------------------------------------------------------------------------------


@pytest.fixture
def packages(monkeypatch):
    """Let `find_spec` know some packages otherwise: `packages(esm=None)`."""
    real = language_checkpoints.find_spec

    def pretend(**found):
        monkeypatch.setattr(
            language_checkpoints,
            "find_spec",
            lambda name: found[name] if name in found else real(name),
        )
        language_checkpoints.read_checkpoint.cache_clear()

    yield pretend
    language_checkpoints.read_checkpoint.cache_clear()


def other_esm(tmp_path):
    """What EvolutionaryScale's package of the same name looks like."""
    folder = tmp_path / "esm"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "esmc.py").touch()
    return types.SimpleNamespace(submodule_search_locations=[str(folder)])


def test_the_other_esm_package_is_told_and_transformers_takes_over(places, tmp_path, packages):
    x = states()
    expected = load_language_model(places["fair"])(x)
    packages(esm=other_esm(tmp_path))
    assert "EvolutionaryScale" in language_checkpoints.without_fair_esm()
    with pytest.warns(UserWarning, match="read with transformers: the package installed under"):
        model = load_language_model(places["fair"])
    assert model.library == "transformers"
    assert "EvolutionaryScale" in repr(model)
    assert (model(x) - expected).abs().max() < 1e-5


def test_missing_packages_are_named(places, packages):
    assert language_checkpoints.without_fair_esm() == ""
    packages(esm=None, transformers=None)
    with pytest.raises(ModuleNotFoundError, match=r"fair-esm is not installed \(pip install"):
        load_language_model(places["fair"])
    with pytest.raises(ModuleNotFoundError, match=r"seqalign\[language\]"):
        load_language_model(places["folder"])
    packages(transformers=None)
    with pytest.raises(SpecError, match=r"transformers is not installed"):
        sa.load_model("esm2", checkpoint=str(places["folder"]), length=5)


def test_neither_library_is_imported_before_it_is_needed():
    modules = "seqalign.models.language, seqalign.rewards.language"
    assert imported(modules, ("esm", "transformers")) == []


def test_weights_that_are_not_here_say_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.MissingWeights, match="seqalign fetch esm2_t6_8M_UR50D"):
        esm2(wild_type=WILD_TYPE)
    with pytest.raises(SpecError, match="seqalign fetch esm2_t6_8M_UR50D"):
        load_reward("esm2-pll", checkpoint="esm2_t6_8M_UR50D")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        esm2(checkpoint=tmp_path / "nowhere.pt", length=3)


def broken(folder, how):
    """Write a checkpoint with one mistake, and return its place."""
    state = to_transformers(fair_state())
    if how == "empty folder":
        folder.mkdir()
        return folder
    if how == "no vocabulary":
        write_folder(folder, state)
        (folder / "vocab.txt").unlink()
        return folder
    if how == "no JSON":
        write_folder(folder, state)
        (folder / "config.json").write_text("<html>")
        return folder
    if how == "no safetensors":
        write_folder(folder, state)
        (folder / "model.safetensors").write_bytes(b"<html>404</html>")
        return folder
    if how == "another vocabulary":
        write_folder(folder, state, mask_token_id=31)
        return folder
    if how == "a letter less":
        write_folder(folder, state)
        (folder / "vocab.txt").write_text("\n".join(v.replace("W", "w") for v in VOCABULARY))
        return folder
    if how == "another family":
        return write_folder(folder, state, model_type="bert")
    if how == "another size":
        return write_folder(folder, state, hidden_size=24, num_attention_heads=3)
    if how == "layers missing":
        return write_folder(folder, state, num_hidden_layers=3)
    if how == "layers left over":
        return write_folder(folder, state, num_hidden_layers=1)
    if how == "absolute positions":
        return write_folder(folder, state, position_embedding_type="absolute")
    if how == "no such keys":
        return write_folder(folder, {"a.weight": torch.zeros(2)})
    folder.mkdir()
    place = folder / "esm2_x.pt"
    if how == "no zip":
        place.write_bytes(b"<html>404</html>")
    elif how == "a class":
        torch.save({"cfg": types.SimpleNamespace(), "model": {}}, place)
    elif how == "a tensor":
        torch.save(torch.zeros(3), place)
    elif how == "ESM-1":
        torch.save({"args": Namespace(arch="roberta_large"), "model": fair_state()}, place)
    elif how == "fair-esm, layers missing":
        cfg = Namespace(
            encoder_layers=3, encoder_embed_dim=WIDTH, encoder_attention_heads=2, token_dropout=True
        )
        torch.save({"cfg": {"model": cfg}, "model": fair_state()}, place)
    return place


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty folder", "put config.json, vocab.txt and model.safetensors"),
        ("no vocabulary", "vocab.txt is missing"),
        ("another vocabulary", "mask_token_id is 31"),
        ("a letter less", "has no W"),
        ("another family", "model_type is 'bert'"),
        ("another size", "does not fit its config.json"),
        ("layers missing", r"missing \['esm.encoder.layer.2"),
        ("layers left over", r"not expected \['esm.encoder.layer.1"),
        ("absolute positions", "'absolute'"),
        ("no such keys", "word_embeddings"),
        ("no zip", "no file of torch or safetensors"),
        ("no safetensors", "no file of torch or safetensors"),
        ("no JSON", "config.json is no JSON"),
        ("a class", "holds a types.SimpleNamespace"),
        ("a tensor", "holds a Tensor"),
        ("ESM-1", "no ESM-2 checkpoint of fair-esm"),
        ("fair-esm, layers missing", "does not fit ESM-2"),
    ],
)
def test_a_wrong_checkpoint_ends_in_one_sentence(tmp_path, how, words):
    place = broken(tmp_path / "x", how)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        load_language_model(place)
    assert str(place.name) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "needs wild_type"),
        ({"wild_type": "MKT", "length": 4}, "length is 4, but wild_type has 3"),
        ({"wild_type": "MKX"}, "'X'"),
        ({"length": 0}, "nothing to design"),
        ({"length": 3, "precision": "half"}, "float32, bfloat16, float16"),
        ({"length": 3, "temperature": 0.0}, "temperature"),
    ],
)
def test_what_a_process_cannot_be_built_from(places, given, words):
    with pytest.raises(ValueError, match=words):
        esm2(checkpoint=places["fair"], **given)


@pytest.mark.parametrize(
    ("designs", "words"),
    [
        (Designs(torch.zeros(1, 1, 3)), "continuous"),
        (Designs.of(["ACG"], DNA), "alphabet"),
        (Designs(torch.tensor([[[1, MASK, 2]]]), PROTEIN), "position 2 holds token 20"),
        (Designs(torch.tensor([[[1]]]), PROTEIN, torch.tensor([[False]])), "no residues"),
    ],
)
def test_what_cannot_be_scored(places, designs, words):
    reward = pseudo_log_likelihood(checkpoint=places["fair"])
    with pytest.raises((TypeError, ValueError), match=words):
        reward(designs)


@pytest.mark.parametrize(
    ("params", "words"), [({"mode": "fast"}, "'unmasked'"), ({"chunk": 0}, "chunk is 0")]
)
def test_parameters_without_a_meaning(places, params, words):
    with pytest.raises(ValueError, match=words):
        pseudo_log_likelihood(checkpoint=places["fair"], **params)


@pytest.mark.parametrize("name", ["esm2", "dplm"])
def test_models_are_found_by_name(places, name):
    model = sa.load_model(name, checkpoint=str(places["folder"]), wild_type=WILD_TYPE, design="1-4")
    assert model.space.fixed == "____YIAKQRQW"
    assert model.process.steps == 4
    assert model.process.length == len(WILD_TYPE)
    assert model.wild_type == WILD_TYPE
    assert model.card["summary"]
