"""The model card and the training curves."""

import json
from pathlib import Path

from rbft.tiny.evaluate import Results

_HEAD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
language: en
---

# RB-FT tiny

A `Qwen2_5_VLForConditionalGeneration` of 3.2 million parameters, trained from scratch on rendered clips: ten
subjects, eight actions, six scenes, in 84 x 84 pixels, two frames a second. It exists so that a whole experiment
(describe, fine-tune, score, explain) runs in minutes on a processor and in tests. It knows nothing beyond its rendered
world: do not use it on real clips.

It reads these prompts: a description along subjects, attributes, actions and scenes; a label out of labels that the
prompt names or defines by a rule; short questions; and, when asked to think first,
`<think>...</think><answer>...</answer>`.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
```

License: Apache-2.0. No data but the renderer's went into it.
"""


def results_tables(results: Results) -> str:
    """The measured tables in Markdown: share right, 95 % Wilson interval, n."""
    parts = []
    for title, rows in results.items():
        lines = [f"| {title} | right | 95 % interval | n |", "|---|---|---|---|"]
        for name, share in rows.items():
            low, high = share.interval
            lines.append(f"| {name} | {share.value:.3f} | {low:.3f} to {high:.3f} | {share.n} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def model_card(results: Results) -> str:
    """The card, with the measured tables when there are any."""
    return _HEAD + (f"\n## Measured\n\n{results_tables(results)}\n" if results else "")


def draw_curves(log: Path, picture: Path) -> None:
    """Draws a run's `log.jsonl` as a picture: what the heads see, then what the answers cost."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    vision = [row for row in rows if row["phase"] == "vision"]
    language = [row for row in rows if row["phase"] == "language"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in ("subject", "action", "colour", "size", "scene"):
        left.plot([row["step"] for row in vision], _smooth([row[name] for row in vision]), label=name)
    left.set(
        title="Learning to see: heads on the vision tower", xlabel="step (32 clips)", ylabel="share right, in training"
    )
    right.plot([row["step"] for row in language], _smooth([row["answers"] for row in language]), label="answer loss")
    right.plot(
        [row["step"] for row in language], _smooth([row["tokens"] for row in language]), label="answer tokens right"
    )
    right.plot([row["step"] for row in language], _smooth([row["clause"] for row in language]), label="clauses right")
    right.plot([row["step"] for row in language], [row["level"] for row in language], "--", label="level of difficulty")
    right.set(title="Learning to speak", xlabel="step (16 clips, about 4 questions each)", ylim=(0, 1.05))
    for axis in (left, right):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def _smooth(values: list[float], width: int = 5) -> list[float]:
    return [
        sum(values[max(0, i - width + 1) : i + 1]) / len(values[max(0, i - width + 1) : i + 1])
        for i in range(len(values))
    ]
