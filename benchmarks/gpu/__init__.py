"""Speed on a GPU, at the size that users train: Qwen2.5-VL-7B with random weights, rbft and plain transformers in turn.

    python -m benchmarks.gpu.train --lora --json build/gpu-train.json
    python -m benchmarks.gpu.score
    python -m benchmarks.gpu.generate

Numbers on a GPU have not been taken yet. Without one, a tiny model of the same kind runs through the same code.
"""
