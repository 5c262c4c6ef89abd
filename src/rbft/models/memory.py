"""The memory that a model needs at its peak, phase by phase: arithmetic over its shape and a batch. No torch.

Counted are tensors: weights, gradients, moments, what layers keep for their gradients, keys and values, logits. The
bytes a layer keeps were measured (`tests/models/test_memory.py` measures them again); what a process and its allocator
need beside tensors is `reserve`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rbft.models.shape import ModelShape

MIB, GIB = 2**20, 2**30
PROCESS_BYTES = {"cpu": 3 * GIB // 2, "cuda": GIB}
"""Python and its libraries on a CPU (measured: 1.3 to 1.5 GiB); the context and workspaces of CUDA on a GPU."""
UNUSABLE_SHARE = {"cpu": 0.10, "cuda": 0.06}
"""Of a whole device: for the rest of the system, or for what an allocator cuts into pieces too small to use."""

_FULL, _HALF = 4, 2
_LOGIT_BYTES = 20
"""For each computed logit of a training step: itself, in float32, its logarithm, and the gradients of these."""
_NEXT_BYTES = 20
"""For each logit of the next token while a text is written: itself, in float32, and copies that are processed."""


@dataclass(frozen=True)
class Device:
    """Where a model works. `given` is what the user allows; None: all of `total`, both in bytes."""

    name: str
    kind: Literal["cpu", "cuda"]
    total: int
    given: int | None = None

    @property
    def budget(self) -> int:
        """Bytes for tensors: what is given, or the device without its unusable share; in both cases less a process."""
        whole = self.given if self.given is not None else int(self.total * (1 - UNUSABLE_SHARE[self.kind]))
        return whole - PROCESS_BYTES[self.kind]


@dataclass(frozen=True)
class Load:
    """A batch: `rows` clips of `patches` patches in all, padded to `tokens` tokens each; of these `answer` an answer.

    `answer` is the longest answer with the row before it, as logits are computed for both. `tree`: every row ends in
    several answers, each of which sees itself alone.
    """

    rows: int
    patches: int
    tokens: int
    answer: int = 0
    tree: bool = False

    @property
    def masked(self) -> bool:
        """Whether attention needs a mask: clips are padded to one length, or end in a tree."""
        return self.rows > 1 or self.tree


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak of a phase. `state`: gradients and moments of what is trained; `work`: everything else."""

    weights: int
    state: int
    work: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.state + self.work


@dataclass(frozen=True)
class Method:
    """How a stage is trained, as far as memory goes. `rank` is that of LoRA; None: every weight is trained."""

    rank: int | None
    checkpointing: bool
    vision: bool = True
    """Whether the vision tower is trained, too; never under LoRA."""


# -- training ------------------------------------------------------------------------------------------------------


def training_peak(shape: ModelShape, load: Load, method: Method, kind: Literal["cpu", "cuda"]) -> Peak:
    """A micro-batch forward and backward beside weights and AdamW in float32; on a GPU under bfloat16 autocast.

    There weights that adapters stand beside are frozen in bfloat16, and so is what flows between their layers.
    """
    trained = trained_parameters(shape, method)
    language, vision = _language_kept(shape, load, method, kind), _vision_kept(shape, load, method, kind)
    copies = _casts(shape, method) if kind == "cuda" else 0
    logits = load.rows * load.answer * shape.language.vocabulary * _LOGIT_BYTES
    kept = (
        _inputs(shape, load, kind) + _residual(shape, load, _flow(method, kind)) + language + vision + copies + logits
    )
    work = max(kept + _head_gradient(shape, method, kind), 3 * _head_gradient(shape, method, "cpu"))
    adapters = 0 if method.rank is None else _FULL * trained
    return Peak(weights=_flow(method, kind) * shape.parameters + adapters, state=3 * _FULL * trained, work=work)


def trained_parameters(shape: ModelShape, method: Method) -> int:
    """Parameters that have a gradient and two moments."""
    if method.rank is not None:
        return shape.language.adapter_parameters(method.rank)
    return shape.parameters - (0 if method.vision else shape.vision.tower_parameters)


def _language_kept(shape: ModelShape, load: Load, method: Method, kind: Literal["cpu", "cuda"]) -> int:
    """What the layers of the language model keep for their gradients, and what one of them needs to compute its own."""
    language = shape.language
    width, flow = _FULL if kind == "cpu" else _HALF, _flow(method, kind)
    keys = language.query if load.masked else language.key
    token = 2 * width * keys
    if flow == _HALF:
        token += 8 * language.hidden + 6 * language.intermediate + 8 * language.query
    else:
        token += (24 if kind == "cpu" else 20) * language.hidden + 4 * width * language.intermediate
        token += (8 if kind == "cpu" else 10) * language.query
    if language.qk_norm:
        token += (8 if kind == "cpu" else 6) * (language.query + language.key)
    if method.rank is not None:  # each adapter keeps its own input after dropout, and which values were dropped
        token += (width + 1) * (5 * language.hidden + language.query + language.intermediate)
    mask = width * load.tokens if load.masked else 0
    tokens = load.rows * load.tokens
    layer = tokens * (token + mask)
    transient = tokens * 3 * width * language.intermediate
    if method.checkpointing:
        return language.layers * tokens * flow * language.hidden + layer + transient
    return language.layers * layer + transient


def _flow(method: Method, kind: Literal["cpu", "cuda"]) -> int:
    """Bytes of a value that flows between layers: bfloat16 on a GPU beside frozen weights, which are bfloat16 there."""
    return _HALF if kind == "cuda" and method.rank is not None else _FULL


def _vision_kept(shape: ModelShape, load: Load, method: Method, kind: Literal["cpu", "cuda"]) -> int:
    """The same of the vision tower; nothing is kept where it is not trained."""
    if method.rank is not None or not method.vision:
        return 0
    vision = shape.vision
    kept = shape.family.vision_bytes
    hidden, intermediate = kept.float32 if kind == "cpu" else kept.bfloat16
    layer = load.patches * (hidden * vision.hidden + intermediate * vision.intermediate)
    merged = load.patches * 24 * vision.hidden
    if method.checkpointing:
        return vision.layers * load.patches * _FULL * vision.hidden + merged
    return vision.layers * layer + merged


def _inputs(shape: ModelShape, load: Load, kind: Literal["cpu", "cuda"]) -> int:
    """Pixels as bytes, as float32 and, on a GPU, as the tower reads them."""
    return load.patches * shape.vision.patch_values * (1 + _FULL + (_HALF if kind == "cuda" else 0))


def _residual(shape: ModelShape, load: Load, width: int) -> int:
    """Embeddings, with pixels put into their places, and the last norm."""
    return load.rows * load.tokens * shape.language.hidden * 4 * width


def _head_gradient(shape: ModelShape, method: Method, kind: Literal["cpu", "cuda"]) -> int:
    """The gradient of the head, before it is added to what is there: it is the first, when all else is still kept."""
    if method.rank is not None:
        return 0
    return shape.language.vocabulary * shape.language.hidden * (_FULL + (_HALF if kind == "cuda" else 0))


def _casts(shape: ModelShape, method: Method) -> int:
    """Copies in bfloat16 that autocast makes of weights that are trained."""
    return _HALF * (shape.parameters if method.rank is None else trained_parameters(shape, method))


def reinforcing_peak(
    shape: ModelShape,
    update: Load,
    clips: Load,
    samples: int,
    new_tokens: int,
    method: Method,
    *,
    reference: bool,
    kind: Literal["cpu", "cuda"],
) -> Peak:
    """The larger of a group's update and of writing `samples` answers to each of `clips`, beside what is trained.

    `reference`: a frozen copy of all weights stands beside them, unless adapters are trained and can be switched off.
    """
    width = _FULL if kind == "cpu" else _HALF
    trained = training_peak(shape, update, method, kind)
    masks = update.rows * update.tokens**2 * (2 + width)
    cache = (shape.language.layers + 2) * (clips.tokens + new_tokens) * 2 * shape.language.key * width
    written = clips.rows * samples * (cache + shape.language.vocabulary * _NEXT_BYTES)
    copies = _casts(shape, method) if kind == "cuda" else 0
    writing = max(_prefill(shape, clips, width), written) + copies
    copied = _FULL * shape.parameters if reference and method.rank is None else 0
    return Peak(trained.weights + copied, trained.state, max(trained.work + masks, writing))


# -- answers -------------------------------------------------------------------------------------------------------


def scoring_peak(shape: ModelShape, load: Load, nodes: int, kind: Literal["cpu", "cuda"]) -> Peak:
    """One pass over the clips with the `nodes` tokens of all answers behind each, under a mask of its own."""
    width = _FULL if kind == "cpu" else _HALF
    whole = replace(load, tokens=load.tokens + nodes)
    mask = load.rows * whole.tokens**2 * (2 + width)
    one_clip = (nodes + 1) * shape.language.vocabulary
    logits = load.rows * one_clip * width + 2 * one_clip * _FULL
    work = _pixels(shape, load, width) + max(_seeing(shape, load, width), _reading(shape, whole, width) + mask + logits)
    return Peak(width * shape.parameters, 0, work)


def generating_peak(shape: ModelShape, load: Load, new_tokens: int, kind: Literal["cpu", "cuda"]) -> Peak:
    """Prefill of the clips, then `new_tokens` one by one, each beside the keys and values of all before it."""
    width = _FULL if kind == "cpu" else _HALF
    language = shape.language
    cache = (language.layers + 2) * load.rows * (load.tokens + new_tokens) * 2 * language.key * width
    logits = load.rows * language.vocabulary * _NEXT_BYTES
    return Peak(width * shape.parameters, 0, max(_prefill(shape, load, width), cache + logits))


def _prefill(shape: ModelShape, load: Load, width: int) -> int:
    """The larger of the vision tower's widest moment and the language model's, which has keys and values beside it."""
    cache = shape.language.layers * load.rows * load.tokens * 2 * shape.language.key * width
    logits = load.rows * shape.language.vocabulary * _NEXT_BYTES
    mask = load.rows * load.tokens**2 * (1 + width) if load.masked else 0
    reading = _reading(shape, load, width) + mask + cache + logits
    return _pixels(shape, load, width) + max(_seeing(shape, load, width), reading)


def _pixels(shape: ModelShape, load: Load, width: int) -> int:
    return load.patches * shape.vision.patch_values * (1 + _FULL + width)


def _seeing(shape: ModelShape, load: Load, width: int) -> int:
    """The widest moment of a layer of the vision tower."""
    vision = shape.vision
    return load.patches * width * max(4 * vision.intermediate + 3 * vision.hidden, 9 * vision.hidden)


def _reading(shape: ModelShape, load: Load, width: int) -> int:
    """The widest moment of a layer of the language model."""
    language = shape.language
    attention = 5 * language.query + 3 * language.hidden
    return load.rows * load.tokens * width * max(3 * language.intermediate + 3 * language.hidden, attention)
