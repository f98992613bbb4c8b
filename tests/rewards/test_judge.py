"""The vision-language judge on a tiny random LLaVA, and on a model whose answers are known."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from networks import two_layers
from torch import nn

from seqalign.core.objective import RewardError
from seqalign.core.process import Designs
from seqalign.core.wrappers import Cached
from seqalign.rewards import judge

transformers = pytest.importorskip(
    "transformers", reason="needs transformers: pip install 'seqalign[images]'"
)
pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'seqalign[images]'")

# transformers 5 has one without torchvision under a name of its own
Pictures = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
PROMPTS = ("a cat", "a dog")
TEMPLATE = (
    "{% for m in messages %}USER : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT :{% endif %}"
)
VOCABULARY = (
    *("[UNK]", "[BOS]", "[EOS]", "<image>", "USER", "ASSISTANT", ":", "?", ".", ",", "(", ")"),
    *"0123456789",
    *("yes", "Yes", "no", "No", "a", "cat", "dog", "image", "show", "this", "Does", "Answer"),
    *("or", "On", "scale", "from", "to", "well", "how", "with", "one", "number"),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a random LLaVA, with a tokenizer that spells 10 as 1 and 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        pad_token="[EOS]",
        additional_special_tokens=["<image>"],
    )
    side = {"height": 16, "width": 16}
    processor = transformers.LlavaProcessor(
        image_processor=Pictures(size={"shortest_edge": 16}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    layers = two_layers(16, 24)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**layers, image_size=16, patch_size=8),
        text_config=transformers.LlamaConfig(
            vocab_size=len(VOCABULARY),
            **layers,
            num_key_value_heads=2,
            max_position_embeddings=128,
        ),
        image_token_index=VOCABULARY.index("<image>"),
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.LlavaForConditionalGeneration(config)
    rng = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.ndim > 1:
            spread = 1.5 / weight[0].numel() ** 0.5
            weight.data.copy_(spread * torch.randn(weight.shape, generator=rng))
    folder = tmp_path_factory.mktemp("judge")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def random_images(b=2, k=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (b, k, 3, 20, 16), generator=rng).float() / 255


def designs(x=None, prompts=PROMPTS):
    return Designs(random_images() if x is None else x, prompts=prompts)


def load(tiny, **options):
    return judge.vlm_judge(checkpoint=tiny, device="cpu", **options)


def by_hand(tiny, image, question, answer):
    """The log-probability that the answer's tokens follow the question, in one forward pass."""
    network = transformers.AutoModelForImageTextToText.from_pretrained(tiny).eval()
    processor = transformers.AutoProcessor.from_pretrained(tiny)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    levels = (image * 255).round().byte()
    inputs = processor(text=text, images=levels, return_tensors="pt")
    tail = torch.tensor([[VOCABULARY.index(token) for token in answer]])
    inputs["input_ids"] = torch.cat((inputs["input_ids"], tail), -1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        log_p = network(**inputs).logits.double().log_softmax(-1)[0]
    at = range(-len(answer) - 1, -1)
    return sum(float(log_p[i, token]) for i, token in zip(at, tail[0], strict=True))


def test_the_log_odds_of_yes_are_the_models_own(tiny):
    reward = load(tiny)
    found = reward(designs())
    assert found.shape == (2, 3)
    for i, prompt in enumerate(PROMPTS):
        question = f"Does this image show {prompt}? Answer yes or no."
        image = random_images()[i, 1]
        log_p = {w: by_hand(tiny, image, question, [w]) for w in ("yes", "Yes", "no", "No")}
        yes, no = (
            torch.tensor([log_p[w] for w in pair], dtype=torch.float64).logsumexp(0)
            for pair in (("yes", "Yes"), ("no", "No"))
        )
        assert float(found[i, 1]) == pytest.approx(float(yes - no), abs=1e-5)
    assert float(found.std()) > 0.01
    assert reward.unit == "nats"


def test_the_expected_rating_is_the_models_own(tiny):
    reward = load(tiny, answer="rating", question="how well ?")
    image = random_images()[0, 0]
    log_p = {k: by_hand(tiny, image, "how well ?", list(str(k))) for k in range(1, 11)}
    p = torch.tensor([log_p[k] for k in range(1, 11)], dtype=torch.float64).exp()
    p[0] -= p[9]
    expected = (p * torch.arange(1, 11)).sum() / p.sum()
    assert float(reward(designs(prompts=None))[0, 0]) == pytest.approx(float(expected), abs=1e-5)
    found = reward.probabilities(image[None])[0]
    torch.testing.assert_close(found, p, rtol=1e-4, atol=1e-8)
    assert 0 < float(found.sum()) < 1


class Known(nn.Module):
    """A model that writes digits by a table: after the question, and after each digit."""

    def __init__(self, first, after_one):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.first, self.after_one = first, after_one
        self.calls = []

    def forward(self, input_ids, attention_mask, use_cache=True):
        self.calls.append(input_ids.shape[1])
        one = input_ids[0, -1] == VOCABULARY.index("1")
        p = torch.full((len(VOCABULARY),), 1e-9)
        for digit, value in (self.after_one if one else self.first).items():
            p[VOCABULARY.index(digit)] = value
        logits = p.log().expand(*input_ids.shape, -1)
        return SimpleNamespace(logits=logits)


class Reader:
    """A processor that reads the text alone."""

    def __init__(self, processor):
        self.tokenizer, self.chat_template = processor.tokenizer, processor.chat_template
        self.apply_chat_template = processor.apply_chat_template

    def __call__(self, text, images, **options):
        return self.tokenizer(text, **options, return_token_type_ids=False)


def test_one_and_ten_are_told_apart(tiny):
    network = Known({"1": 0.5, "7": 0.3, "cat": 0.2}, {"0": 0.6, ".": 0.4})
    reader = Reader(transformers.AutoProcessor.from_pretrained(tiny))
    reward = judge.Judge(network=network, processor=reader, question="how ?", answer="rating")
    # P(1) = 0.5 · 0.4, P(10) = 0.5 · 0.6, P(7) = 0.3; the rest is no rating
    expected = (1 * 0.2 + 10 * 0.3 + 7 * 0.3) / 0.8
    assert float(reward(designs(prompts=None))[0, 0]) == pytest.approx(expected, abs=1e-5)
    assert len(set(network.calls)) == 2, "one pass for the first digit, one for what follows a 1"
    short = judge.Judge(
        network=network, processor=reader, question="how ?", answer="rating", highest=5
    )
    network.calls.clear()
    assert float(short(designs(prompts=None))[0, 0]) == pytest.approx(1.0, abs=1e-5)
    assert len(set(network.calls)) == 1


def test_chunks_islands_and_company_change_nothing(tiny):
    together = load(tiny)(designs())
    for chunk in (1, 2, None):
        found = load(tiny, chunk=chunk)(designs())
        torch.testing.assert_close(found, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(Cached(load(tiny))(designs()), together, rtol=0, atol=1e-5)
    alone = load(tiny)(designs(random_images()[1:, 2:], PROMPTS[1:]))
    torch.testing.assert_close(alone[0, 0], together[1, 2], rtol=0, atol=1e-5)
    other = load(tiny)(designs(prompts=PROMPTS[::-1]))
    assert float((other - together).abs().min()) > 1e-6


def test_a_question_without_the_prompt_needs_none(tiny):
    reward = load(tiny, question="Does this show a cat ?")
    torch.testing.assert_close(reward(designs(prompts=None)), reward(designs()))
    with pytest.raises(RewardError, match="compares an image with its prompt"):
        load(tiny)(designs(prompts=None))


def test_half_precision_is_near(tiny):
    found, expected = load(tiny, precision="bfloat16")(designs()), load(tiny)(designs())
    assert not torch.equal(found, expected)
    assert float((found - expected).abs().max()) < 0.2


def test_there_is_no_gradient(tiny):
    with pytest.raises(TypeError, match="no gradient"):
        load(tiny).graded(designs())


def test_a_first_token_in_the_template_is_not_doubled(tiny):
    processor = transformers.AutoProcessor.from_pretrained(tiny)
    seen = []

    class Listener(Reader):
        def __call__(self, text, images, **options):
            seen.append(options["add_special_tokens"])
            return super().__call__(text, images, **options)

    for template in (TEMPLATE, "[BOS] " + TEMPLATE):
        processor.chat_template = template
        network = Known({"yes": 0.5, "no": 0.25}, {})
        reward = judge.Judge(network=network, processor=Listener(processor), question="?")
        assert float(reward(designs(prompts=None))[0, 0]) == pytest.approx(0.6931472, abs=1e-5)
    assert seen[0] is True
    assert seen[-1] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"answer": "maybe"}, "answer is 'maybe'"),
        ({"answer": "rating", "highest": 1}, "highest is 1; give 2..100"),
        ({"question": " "}, "question is empty"),
        ({"chunk": 0}, "chunk is 0"),
        ({"precision": "int8"}, "precision is 'int8'"),
    ],
)
def test_settings_without_a_meaning_are_refused(options, words, tiny):
    with pytest.raises(ValueError, match=re.escape(words)):
        load(tiny, **options)


def test_a_tokenizer_without_the_words_is_refused(tiny):
    processor = transformers.AutoProcessor.from_pretrained(tiny)
    reader = Reader(processor)
    reader.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        judge.Judge(network=Known({}, {}), processor=reader, question="?")
    reader = Reader(processor)
    reader.tokenizer = lambda word, add_special_tokens: SimpleNamespace(input_ids=[0])
    reader.tokenizer.unk_token_id = 0
    with pytest.raises(ValueError, match="cannot spell the answers"):
        judge.Judge(network=Known({}, {}), processor=reader, question="?")


def test_missing_weights_say_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for checkpoint in ("someone/judge", "/no/such/folder", tmp_path):
        with pytest.raises(FileNotFoundError, match="SmolVLM-256M-Instruct"):
            judge.vlm_judge(checkpoint=checkpoint, device="cpu")


def test_card(tiny):
    card = yaml.safe_load((Path(judge.__file__).parent / "cards" / "vlm-judge.yaml").read_text())
    reward = load(tiny)
    assert card["name"] == reward.name
    assert card["differentiable"] is reward.differentiable is False
    assert 0 < reward.cost < 1
    for key in ("summary", "unit", "direction", "licence", "data", "figures", "references"):
        assert card[key]
