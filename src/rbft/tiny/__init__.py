"""The embedded model: a small real vision-language model, its tokenizer, its rendered clip world and its training.

`import rbft.tiny` loads no torch. The checkpoint is a plain Hugging Face folder:

    AutoModelForImageTextToText.from_pretrained(CHECKPOINT)
    AutoProcessor.from_pretrained(CHECKPOINT)
"""

from pathlib import Path

CHECKPOINT: Path = Path(__file__).parent / "checkpoint"
"""Folder of the embedded checkpoint."""

__all__ = ["CHECKPOINT"]
