"""Ten lines of Python: prompts, a reward, images. `--quick` draws a few in a few steps."""

import sys

import seqalign as sa

quick = "--quick" in sys.argv
prompts = ["crying cat face", "red apple", "sailboat"]
model = sa.load_model("emoji-mini", prompts=prompts, steps=8 if quick else 50)
reward, judge = sa.load_reward("emoji-match"), sa.load_reward("emoji-match-holdout")
result = sa.sample(model, reward, "das", particles=2 if quick else 8, alpha=0.05, seed=7)
unseen = judge(result.samples.designs).mean(-1).tolist()
for prompt, value, held in zip(prompts, result.best(1).rewards, unseen, strict=True):
    print(f"{prompt:16s}  best {value:6.2f} nats,  hold-out of all {held:6.2f}")
if not quick:
    result.contact_sheet("emoji.png")
