"""Records are closed and frozen, and fingerprints are the identity of everything."""

from __future__ import annotations

import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rbft import records, results
from rbft.records import Clip, Grid, LossPoint, Manifest, Record, fingerprint

CLIP = Clip(clip_id="a", path="a.mp4", sha256="0", duration_seconds=2.0, split="train", label="x")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_every_record_is_frozen_and_closed() -> None:
    both = [*inspect.getmembers(records, inspect.isclass), *inspect.getmembers(results, inspect.isclass)]
    kinds = [kind for _, kind in both if issubclass(kind, Record)]
    assert len(kinds) > 30
    for kind in kinds:
        assert kind.model_config["frozen"], kind.__name__
        assert kind.model_config["extra"] == "forbid", kind.__name__


def test_a_record_cannot_be_changed_or_hold_more() -> None:
    with pytest.raises(ValidationError, match="Instance is frozen"):
        CLIP.label = "y"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Clip.model_validate(CLIP.model_dump() | {"lable": "y"})


def test_fingerprint_by_hand() -> None:
    """sha256 of '["a",{"b":[1,2]}]'."""
    assert fingerprint("a", {"b": (1, 2)}) == fingerprint("a", {"b": [1, 2]}) == "8dd4a86c0811b7fd"


def test_order_of_keys_does_not_count_and_everything_else_does() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    different = [(), ("a",), ("a", "b"), (["a", "b"],), ("ab",), (1,), (1.0,), ("1",), (True,), (None,), ("",), ({},)]
    assert len({fingerprint(*parts) for parts in different}) == len(different)


@given(JSON)
def test_what_json_keeps_the_fingerprint_keeps(value: object) -> None:
    assert fingerprint(json.loads(json.dumps(value))) == fingerprint(value)


def test_a_record_and_its_fields_have_one_fingerprint() -> None:
    assert fingerprint(CLIP, [Grid()]) == fingerprint(CLIP.model_dump(mode="json"), [Grid().model_dump()])
    assert fingerprint(CLIP) != fingerprint(CLIP.model_copy(update={"label": None}))
    assert fingerprint(LossPoint(step=1, loss=float("nan"), learning_rate=0)) == fingerprint(
        LossPoint(step=1, loss=float("nan"), learning_rate=0)
    )
    with pytest.raises(TypeError, match="cannot fingerprint a set"):
        fingerprint({1, 2})


def test_clips_of_a_split() -> None:
    clips = [CLIP.model_copy(update={"clip_id": i, "split": s, "label": x}) for i, s, x in (
        ("a", "train", "x"), ("b", "test", "x"), ("c", "train", None), ("d", "train", "y"),
    )]  # fmt: skip
    manifest = Manifest(labels={"x": "", "y": ""}, clips=tuple(clips))
    assert [c.clip_id for c in manifest.of("train")] == ["a", "c", "d"]
    assert [c.clip_id for c in manifest.of("train", labelled=True)] == ["a", "d"]
    assert [c.clip_id for c in manifest.of("train", labelled=False)] == ["c"]
    assert [c.clip_id for c in manifest.of("test")] == ["b"]


def test_a_language_token_of_qwen2_5_is_28_pixels_wide() -> None:
    assert Grid().pixels == 28
