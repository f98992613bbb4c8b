"""vlm-judge: ask a vision-language model about an image, and read its answer off the probabilities.

| answer | value | unit |
|---|---|---|
| yes-no | log P(yes) − log P(no): the log-odds of "yes" | nats |
| rating | Σ k P(k) / Σ P(k) over k = 1..highest: the expected rating | |

P is the model's probability that its answer begins so, in any of the spellings "yes", "Yes", "YES"
(with or without a space, as far as the tokenizer tells them apart). Nothing is sampled or written,
so a score is one forward pass and is the same every time. An answer of several tokens ("10" in most
vocabularies) takes a pass per token; "1" is then a "1" that no "0" follows.

There is no gradient: images reach the model through its own processor, as 8-bit pictures.

References:
    Training Diffusion Models with Reinforcement Learning (Black et al., 2023),
    https://arxiv.org/abs/2305.13301, section 5.3 (a vision-language model as the reward).
    Evaluating Text-to-Visual Generation with Image-to-Text Generation (Lin et al., 2024),
    https://arxiv.org/abs/2404.01291, equation 1 (the probability of "Yes").
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from torch import nn

from seqalign.models.devices import Precision, device_of
from seqalign.rewards.checkpoints import locate, need_transformers
from seqalign.rewards.images import ImageScore, check_chunk, pillow
from seqalign.weights import sound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

__all__ = ["Answer", "Judge", "vlm_judge"]

Answer = Literal["yes-no", "rating"]
Tokens = tuple[int, ...]

QUESTIONS: Final[Mapping[str, str]] = {
    "yes-no": "Does this image show {prompt}? Answer yes or no.",
    "rating": (
        "On a scale from 1 (not at all) to {highest} (perfectly), how well does this image show "
        "{prompt}? Answer with one number."
    ),
}
"""What is asked by default."""

_NEEDS: Final = (
    "A judge is any image-text-to-text model of transformers with a chat template, such as "
    "HuggingFaceTB/SmolVLM-256M-Instruct on Hugging Face (0.5 GB, Apache-2.0): run `hf download "
    "NAME` and give NAME, or the path of its folder, as checkpoint."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Judge(ImageScore):
    """What a vision-language model answers to a question about the image; higher is better.

    Attributes:
        network: an image-text-to-text model of transformers, in evaluation mode, frozen.
        processor: its processor, with a tokenizer and a chat template.
        question: what is asked; "{prompt}" stands for the prompt of the island, "{highest}" for the
            best rating.
        answer: how the answer is read.
        highest: the best rating; the worst is 1.
        chunk: images per call of the network; None is all at once.
        name: what messages and tables call it.

    Raises:
        ValueError: a setting is not allowed, the processor has no chat template, or its tokenizer
            cannot tell the answers apart.
    """

    network: nn.Module = field(repr=False)
    processor: Any = field(repr=False)
    question: str
    answer: Answer = "yes-no"
    highest: int = 10
    chunk: int | None = 4
    name: str = "vlm-judge"
    differentiable: bool = False

    def __post_init__(self) -> None:
        """Refuse, before anything is asked, what cannot be answered."""
        check_chunk(self.name, self.chunk)
        if self.answer not in get_args(Answer):
            raise ValueError(
                f"Reward {self.name!r}: answer is {self.answer!r}; give 'yes-no' or 'rating'."
            )
        if not 2 <= self.highest <= 100:
            raise ValueError(f"Reward {self.name!r}: highest is {self.highest}; give 2..100.")
        if not self.question.strip():
            raise ValueError(f"Reward {self.name!r}: question is empty; ask something.")
        if getattr(self.processor, "chat_template", None) is None:
            raise ValueError(
                f"Reward {self.name!r}: the processor has no chat template, so that there is no "
                f"telling how to ask. Give an instruction-tuned checkpoint."
            )
        self._check_answers()

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Nats of log-odds, or nothing for a rating."""
        return "nats" if self.answer == "yes-no" else ""

    @property
    def reads_prompts(self) -> bool:  # type: ignore[override]
        """Whether the question contains the prompt."""
        return "{prompt}" in self.question

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Seconds for 1000 tokens, at 50 GFLOP/s on a CPU and 50 TFLOP/s on a GPU."""
        first = next(self.network.parameters())
        count = sum(p.numel() for p in self.network.parameters())
        return 2 * count * 1000 / (5e10 if first.device.type == "cpu" else 5e13)

    @cached_property
    def answers(self) -> tuple[frozenset[Tokens], ...]:
        """The token sequences of each answer: yes and no, or the ratings 1..highest."""
        words = (
            (("yes", "Yes", "YES"), ("no", "No", "NO"))
            if self.answer == "yes-no"
            else tuple((str(k),) for k in range(1, self.highest + 1))
        )
        tokenizer = self.processor.tokenizer

        def spell(word: str) -> Tokens:
            return tuple(tokenizer(word, add_special_tokens=False).input_ids)

        groups = []
        for spellings in words:
            found = {spell(word) for plain in spellings for word in (plain, f" {plain}")}
            found = {t for t in found if t and tokenizer.unk_token_id not in t}
            # longer spellings of the same word are detours that cost a pass per token
            least = min(map(len, found), default=0)
            groups.append(frozenset(t for t in found if len(t) == least))
        return tuple(groups)

    def _check_answers(self) -> None:
        every = list(chain.from_iterable(self.answers))
        if not all(self.answers) or len(set(every)) < len(every):
            raise ValueError(
                f"Reward {self.name!r}: the tokenizer cannot spell the answers, or cannot tell "
                f"them apart. Use another checkpoint."
            )

    def probabilities(self, images: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Return how probable each answer is, (n, number of answers), float64.

        What is missing to 1 are answers of another form: if it is much, ask another question.

        Args:
            images: (n, 3, H, W) in [0, 1].
            prompts: n of them, if the question contains "{prompt}".
        """
        asked = [self._ask(prompt) for prompt in prompts] or [self._ask("")] * len(images)
        out = torch.empty(len(images), len(self.answers), dtype=torch.float64)
        for text in dict.fromkeys(asked):
            rows = [i for i, other in enumerate(asked) if other == text]
            out[rows] = self._answer(images[rows], text)
        return out

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        p = self.probabilities(images, prompts)
        if self.answer == "yes-no":
            return p[:, 0].log() - p[:, 1].log()
        rating = torch.arange(1, self.highest + 1, dtype=torch.float64)
        return p @ rating / p.sum(-1)

    def _ask(self, prompt: str) -> str:
        question = self.question.replace("{highest}", str(self.highest))
        words = {"type": "text", "text": question.replace("{prompt}", prompt)}
        talk = [{"role": "user", "content": [{"type": "image"}, words]}]
        text: str = self.processor.apply_chat_template(
            talk, add_generation_prompt=True, tokenize=False
        )
        return text

    @torch.no_grad()
    def _answer(self, images: Tensor, text: str) -> Tensor:
        """Return the probabilities (n, number of answers) of what follows one text."""
        begin = self.processor.tokenizer.bos_token
        inputs = self.processor(
            text=[text] * len(images),
            images=[[picture] for picture in pillow(images)],
            return_tensors="pt",
            # a template that writes the first token itself must not get it twice
            add_special_tokens=not (begin and text.startswith(begin)),
        )
        every = set(chain.from_iterable(self.answers))
        log_p: dict[Tokens, Tensor] = {(): torch.zeros(len(images), dtype=torch.float64)}
        # from short to long, so that what a beginning is extended by is known
        for start in sorted({t[:i] for t in every for i in range(len(t))}, key=len):
            after = self._next(inputs, start)
            for t in {t[: len(start) + 1] for t in every if t[: len(start)] == start != t}:
                log_p[t] = log_p[start] + after[:, t[-1]]
        alone: dict[Tokens, Tensor] = {}
        for t in sorted(every, key=len, reverse=True):
            longer = [p for other, p in alone.items() if other[: len(t)] == t]
            # "10" begins with "1", but is no 1
            alone[t] = (log_p[t].exp() - sum(longer)).clamp(min=torch.finfo(torch.double).tiny)
        return torch.stack([sum(alone[t] for t in g) for g in self.answers], -1)  # type: ignore[misc]

    def _next(self, inputs: Mapping[str, Tensor], start: Tokens) -> Tensor:
        """Return the log-probabilities (n, V) of the token after the inputs and a beginning."""
        first = next(self.network.parameters())
        ids = inputs["input_ids"]
        more = torch.tensor(start, dtype=ids.dtype).expand(len(ids), -1)
        given: dict[str, Any] = {}
        for key, value in inputs.items():
            if value.shape == ids.shape and not value.is_floating_point():
                # one entry per token: the tokens, a mask that shows them, or kinds (0 is text)
                fill = {"input_ids": more, "attention_mask": torch.ones_like(more)}
                value = torch.cat((value, fill.get(key, torch.zeros_like(more)).to(value)), -1)
            kind = first.dtype if value.is_floating_point() else value.dtype
            given[key] = value.to(first.device, kind)
        if "logits_to_keep" in inspect.signature(self.network.forward).parameters:
            given["logits_to_keep"] = 1
        logits = self.network(**given, use_cache=False).logits[:, -1]
        return torch.log_softmax(logits.double(), -1).cpu()


@lru_cache(maxsize=2)
def _load(where: Path, stamp: int, device: str, precision: Precision) -> tuple[nn.Module, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if not (where / "config.json").is_file():
        raise FileNotFoundError(f"{where / 'config.json'} is missing. {_NEEDS}")
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            where, local_files_only=True, output_loading_info=True
        )
        reader: Any = AutoProcessor
        processor = reader.from_pretrained(where, local_files_only=True)
    except OSError as error:
        raise FileNotFoundError(f"{where} lacks a file of its checkpoint: {error}") from error
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        raise ValueError(
            f"The weights in {where} lack {missing[:3]}. Give the folder as it was downloaded."
        )
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ValueError(
            f"The processor in {where} does not read images and text. Give the folder as it was "
            f"downloaded."
        )
    sound(loaded[0].named_parameters(), where)
    network: nn.Module = loaded[0].to(device=device, dtype=getattr(torch, precision))
    return network.eval().requires_grad_(False), processor


def vlm_judge(
    *,
    checkpoint: str | Path,
    answer: Answer = "yes-no",
    question: str | None = None,
    highest: int = 10,
    chunk: int | None = 4,
    device: str = "auto",
    precision: Precision = "float32",
) -> Judge:
    """Return what a vision-language model answers about the image: log-odds of yes, or a rating.

    Args:
        checkpoint: any image-text-to-text model of transformers with a chat template: a name of
            `seqalign fetch`, a folder, or a Hugging Face repository in the cache of this machine.
        answer: "yes-no" scores the log-odds of yes, in nats; "rating" the expected rating.
        question: what is asked; "{prompt}" stands for the prompt of the island and "{highest}" for
            the best rating; by default, whether (or how well) the image shows the prompt.
        highest: the best rating, the worst is 1.
        chunk: images per call of the network.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the network; "bfloat16" and "float16" are for accelerators.

    Raises:
        ImportError: transformers, or what the model's processor needs, is not installed.
        FileNotFoundError: the weights are not on this machine; the message says what to do.
        ValueError: a setting is not allowed, or the checkpoint is not what it should be.
    """
    need_transformers()
    device = device_of(device, precision)
    where = locate(checkpoint, _NEEDS).resolve()
    network, processor = _load(where, where.stat().st_mtime_ns, device, precision)
    return Judge(
        network=network,
        processor=processor,
        question=QUESTIONS.get(answer, "") if question is None else question,
        answer=answer,
        highest=highest,
        chunk=chunk,
    )
