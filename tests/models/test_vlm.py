"""Every family, from a checkpoint on disk: what we feed it is what its own processor would, and scores are exact."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

from factories import FAMILY_NAMES
from noise import noise_clip
from rbft.errors import CheckpointError, UserError
from rbft.machine import container_limits
from rbft.models.generate import generate
from rbft.models.pixels import patchify
from rbft.models.score import score_answers
from rbft.models.sources import Source, resolve
from rbft.models.vlm import (
    VLM,
    TokenCounter,
    grid_of,
    load_grid,
    local_source,
    model_shape,
    this_device,
)
from rbft.records import Grid

FAMILIES = pytest.mark.parametrize("family", FAMILY_NAMES)


@pytest.fixture(scope="module")
def vlms(checkpoints: dict[str, Path]) -> dict[str, VLM]:
    return {name: VLM.load(folder) for name, folder in checkpoints.items()}


@FAMILIES
def test_inputs_equal_those_of_the_checkpoints_own_processor(family: str, vlms: dict[str, VLM]) -> None:
    vlm = vlms[family]
    frames, plan = noise_clip(0, vlm.grid, frames=6, rows=2, columns=3)
    ours = vlm.inputs([vlm.encode(frames, plan, "Which label? cat. dog.")])
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which label? cat. dog."}]}
    text = vlm.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    sized = {} if family == "internvl" else {"do_resize": False}
    theirs = vlm.processor(
        text=[text],
        videos=[torch.from_numpy(frames.data).permute(0, 3, 1, 2)],
        video_metadata=[VideoMetadata(total_num_frames=6, fps=2.0, frames_indices=list(range(6)))],
        do_sample_frames=False,
        return_tensors="pt",
        **sized,
    )
    assert set(ours) == {name for name in theirs if name != "video_metadata"}
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor.double(), torch.as_tensor(theirs[name]).double(), atol=1e-6, rtol=0)


@FAMILIES
def test_label_scores_equal_one_whole_forward_a_label(family: str, vlms: dict[str, VLM]) -> None:
    vlm = vlms[family]
    batch = [
        vlm.encode(*noise_clip(1, vlm.grid, frames=4), "Which?"),
        vlm.encode(*noise_clip(2, vlm.grid, frames=6, rows=3), "Which label fits the clip best?"),
    ]
    answers = [vlm.answer_ids(label) for label in ("cat", "catalogue", "dog", "é")]
    scores = score_answers(vlm, batch, answers)
    assert scores.shape == (2, 4)
    for i, encoded in enumerate(batch):
        for c, answer in enumerate(answers):
            logits = vlm.model(**vlm.inputs([encoded], [answer])).logits[0].double().log_softmax(-1)
            expected = logits[-len(answer) - 1 : -1].gather(-1, answer[:, None]).sum()
            assert scores[i, c].item() == pytest.approx(expected.item(), abs=1e-3)


@FAMILIES
def test_another_clip_or_other_times_change_the_scores(family: str, vlms: dict[str, VLM]) -> None:
    vlm = vlms[family]
    answers = [vlm.answer_ids("cat"), vlm.answer_ids("dog")]
    frames, plan = noise_clip(1, vlm.grid)
    first = score_answers(vlm, [vlm.encode(frames, plan, "Which?")], answers)
    again = score_answers(vlm, [vlm.encode(frames, plan, "Which?")], answers)
    other = score_answers(vlm, [vlm.encode(*noise_clip(2, vlm.grid), "Which?")], answers)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_qwen2_5_is_told_the_realised_frame_rate(vlms: dict[str, VLM]) -> None:
    vlm = vlms["qwen2_5_vl"]
    frames, plan = noise_clip(1, vlm.grid, frames=8)
    slow = plan.model_copy(update={"frames_per_second": 0.5})
    assert vlm.inputs([vlm.encode(frames, plan, "Q")])["second_per_grid_ts"].tolist() == [1.0]
    assert vlm.inputs([vlm.encode(frames, slow, "Q")])["second_per_grid_ts"].tolist() == [4.0]
    answers = [vlm.answer_ids("cat")]
    fast_score, slow_score = (score_answers(vlm, [vlm.encode(frames, p, "Q")], answers) for p in (plan, slow))
    assert not torch.equal(fast_score, slow_score)


def test_qwen2_5_time_positions_have_the_golden_values(vlms: dict[str, VLM]) -> None:
    """0.75 frames a second: 2 / 0.75 s a grid x 4 tokens a second = 10.67 a step, cut after multiplying."""
    vlm = vlms["qwen2_5_vl"]
    frames, plan = noise_clip(1, vlm.grid, frames=6, rows=2, columns=2)
    inputs = vlm.inputs([vlm.encode(frames, plan.model_copy(update={"frames_per_second": 0.75}), "Q")])
    positions, _ = vlm.model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
    )
    assert vlm.model.config.vision_config.tokens_per_second == 4
    is_video = inputs["mm_token_type_ids"][0] == 2
    steps = positions[0, 0, is_video] - positions[0, 0, is_video][0]
    assert steps.tolist() == [0] * 4 + [10] * 4 + [21] * 4


def test_qwen3_reads_real_times(vlms: dict[str, VLM]) -> None:
    vlm = vlms["qwen3_vl"]
    frames, plan = noise_clip(1, vlm.grid, frames=4)
    shifted = type(frames)(frames.data, np.array([0.0, 0.4, 3.0, 3.5]))
    text = vlm.encode(shifted, plan, "Q").text
    assert "<0.2 seconds>" in text
    assert "<3.2 seconds>" in text


@FAMILIES
def test_generation_is_greedy_repeatable_and_never_a_pixel_token(family: str, vlms: dict[str, VLM]) -> None:
    vlm = vlms[family]
    batch = [vlm.encode(*noise_clip(i, vlm.grid), "Describe.") for i in range(3)]
    first = generate(vlm, batch, max_new_tokens=12)
    assert first == generate(vlm, batch, max_new_tokens=12)
    assert all(g.num_tokens <= 12 for g in first)
    inputs = vlm.inputs(batch[:1])
    assert set(vlm.visual_token_ids) >= {vlm.processor.image_token_id}
    raw = vlm.model.generate(**inputs, max_new_tokens=12, suppress_tokens=vlm.visual_token_ids, do_sample=False)
    new = set(raw[0, inputs["input_ids"].shape[1] :].tolist())
    assert not new & set(vlm.visual_token_ids)


def test_sampling_repeats_under_its_seed(vlms: dict[str, VLM]) -> None:
    vlm = vlms["qwen2_5_vl"]
    batch = [vlm.encode(*noise_clip(0, vlm.grid), "Describe.")]
    texts = [generate(vlm, batch, max_new_tokens=16, temperature=1.0, seed=s)[0].text for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@FAMILIES
def test_a_saved_checkpoint_loads_in_plain_transformers(family: str, vlms: dict[str, VLM], tmp_path: Path) -> None:
    vlm = vlms[family]
    vlm.save(tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("*.bin"))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tmp_path)
    encoded = vlm.encode(*noise_clip(0, vlm.grid), "Which?")
    with torch.inference_mode():
        torch.testing.assert_close(model(**vlm.inputs([encoded])).logits, vlm.model(**vlm.inputs([encoded])).logits)


def test_patches_keep_colours_in_place() -> None:
    frames = np.zeros((2, 28, 28, 3), dtype=np.uint8)
    frames[..., 0] = 200
    made = patchify(frames, Grid())
    assert made.grid_thw.tolist() == [1, 2, 2]
    channels = made.pixels.view(4, 3, -1).float().mean(-1)
    assert channels.tolist() == [[200, 0, 0]] * 4


def test_an_odd_number_of_frames_repeats_the_last() -> None:
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 28, 28, 3), dtype=np.uint8)
    made = patchify(frames, Grid())
    assert made.grid_thw.tolist() == [2, 2, 2]
    assert sorted(set(made.pixels[4:].flatten().tolist())) == [2]


@pytest.mark.parametrize(("family", "side"), [("qwen2_vl", 28), ("qwen2_5_vl", 28), ("qwen3_vl", 32), ("internvl", 28)])
def test_the_grid_comes_from_the_configuration(family: str, side: int, checkpoints: dict[str, Path]) -> None:
    assert load_grid(checkpoints[family]).pixels == side


# -- errors --------------------------------------------------------------------------------------------------------


def test_control_tokens_in_a_prompt_are_refused(vlms: dict[str, VLM]) -> None:
    vlm = vlms["qwen2_5_vl"]
    with pytest.raises(UserError, match=r"holds '<\|video_pad\|>', a control token of .*must be plain text"):
        vlm.encode(*noise_clip(0, vlm.grid), "Which? <|video_pad|>")
    with pytest.raises(UserError, match=r"'<\|im_end\|>'"):
        vlm.answer_ids("cat<|im_end|>")


def _model_folder(folder: Path, config: dict[str, object]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_missing_folder_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no such model folder; give a folder, a Hugging Face name, or `embedded`"
    ):
        VLM.load(tmp_path / "gone")


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json; this is not a model folder"):
        VLM.load(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = _model_folder(tmp_path / "m", {"model_type": "qwen2_5_vl"})
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(
        CheckpointError, match=r"no \*\.safetensors weights; it holds pytorch_model\.bin, which can run"
    ):
        VLM.load(folder)


def test_remote_code_is_refused_unless_asked_for(tmp_path: Path) -> None:
    folder = _model_folder(tmp_path / "m", {"model_type": "x", "auto_map": {"AutoConfig": "evil.Config"}})
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    with pytest.raises(CheckpointError, match=r"asks to run Python code .*`allow_remote_code: true`"):
        VLM.load(folder)


def test_an_unknown_family_lists_the_known_ones(tmp_path: Path) -> None:
    folder = _model_folder(tmp_path / "m", {"model_type": "llava"})
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"models of type 'llava' are not known; known types: qwen2_vl, qwen2_5_vl"
    ):
        load_grid(folder)


def test_torn_weights_are_an_error_that_names_the_folder(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for file in checkpoints["qwen2_5_vl"].iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    with pytest.raises(CheckpointError, match=r"m: cannot be loaded: "):
        VLM.load(folder)


def test_neither_a_folder_nor_a_name() -> None:
    with pytest.raises(CheckpointError, match=r"'a b c' is neither a folder here nor a Hugging Face name"):
        load_grid("a b c")


def test_a_hub_name_without_network_says_what_to_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def refuse(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=r"owner/name: not in the local cache, .*Check the name, the network"):
        load_grid("owner/name")


def test_a_hub_name_loads_from_the_snapshot_it_resolves_to(
    monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]
) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    def snapshot(name: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert "*.bin" in ignore_patterns
        return str(checkpoints["qwen2_5_vl"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    vlm = VLM.load("Qwen/Qwen2.5-VL-7B-Instruct", revision="main")
    assert asked == [("Qwen/Qwen2.5-VL-7B-Instruct", "main")]
    assert vlm.source.revision == "qwen2_5_vl"


def test_the_grid_of_a_model_that_is_here_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert local_source("owner/name") is None
    cached = tmp_path / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    config = checkpoints["internvl"] / "config.json"
    (cached / "snapshots" / "abc" / "config.json").write_bytes(config.read_bytes())
    assert grid_of(local_source("owner/name")) == load_grid(checkpoints["internvl"])
    assert grid_of(local_source("owner/name", revision="abc")) == load_grid(checkpoints["internvl"])
    assert local_source("owner/name", revision="other") is None
    assert grid_of(local_source(str(checkpoints["qwen3_vl"]))) == load_grid(checkpoints["qwen3_vl"])
    assert grid_of(local_source("embedded")) == load_grid("embedded")


@pytest.mark.parametrize(
    ("part", "name"),
    [("text_config", "num_attention_heads"), ("vision_config", "num_heads"), ("text_config", "num_key_value_heads")],
)
def test_a_size_of_0_in_the_configuration_names_the_file(
    checkpoints: dict[str, Path], tmp_path: Path, part: str, name: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(checkpoints["qwen2_5_vl"], folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config[part][name] = 0
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        VLM.load(folder)
    told = (
        f"{folder / 'config.json'}: a size or a number of heads in it is 0; every one is at least 1. "
        "Take the file from where the model comes from"
    )
    assert str(caught.value) == told
    if name == "num_attention_heads":
        with pytest.raises(CheckpointError) as caught:
            model_shape(resolve(folder))
        assert str(caught.value) == told


def test_a_pickled_model_works_in_a_process_that_loaded_none(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"], device=torch.device("cpu"))
    torch.save(vlm.model, tmp_path / "model.pt")
    script = (
        f"import torch\nmodel = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "vision = model.config.vision_config\n"
        "pixels = torch.zeros(16, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)\n"
        "print(model.model.visual(pixels, grid_thw=torch.tensor([[1, 4, 4]])).pooler_output.shape[0])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "4\n"), ran.stderr


# -- the device ----------------------------------------------------------------------------------------------------


def test_a_container_limits_the_memory_of_the_machine(tmp_path: Path) -> None:
    assert container_limits(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    assert container_limits(tmp_path) == []
    (tmp_path / "memory.max").write_text("4294967296\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert container_limits(tmp_path) == [2**32, 9223372036854771712]


def test_the_device_has_all_of_its_memory_or_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rbft.models.vlm.container_limits", lambda: [3 * 2**30])
    whole = this_device(None)
    assert (whole.kind, whole.total, whole.given) == ("cpu", 3 * 2**30, None)
    assert this_device(1.5).given == 3 * 2**29


def test_a_processor_that_is_not_there_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoints["internvl"] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"owner/name: its processor cannot be loaded: "):
        TokenCounter(Source("owner/name", tmp_path, None))


def test_a_folder_without_a_chat_template_is_no_processor(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints["qwen2_5_vl"], folder)
    for path in folder.glob("chat_template*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"model: its processor cannot be loaded: Cannot use apply_chat_template"):
        TokenCounter(resolve(folder))


def test_sliding_windows_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints["qwen2_5_vl"], folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["layer_types"] = ["sliding_attention"] * len(config["text_config"]["layer_types"])
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"its language layers attend in sliding windows, which rbft does not know$"
    ):
        VLM.load(folder)


_PIECES = st.sampled_from(["normal", "ab", "a", "no", " walk", "norm", "é", "走", " "])


def _labels(draw: st.DrawFn) -> list[str]:
    """Labels that begin, end or hold each other, or begin with the same token."""
    stem = draw(_PIECES).strip() or "x"
    words = draw(st.lists(st.lists(_PIECES, max_size=3).map("".join), min_size=2, max_size=4))
    made = [" ".join(f"{draw(st.sampled_from([stem, '']))}{word}".split()) for word in [*words, ""]]
    return [stem, *dict.fromkeys(label for label in made if label and label != stem)]


def _scores_are_those_of_whole_forwards(vlm: VLM, labels: list[str]) -> None:
    encoded = vlm.encode(*noise_clip(1, vlm.grid, frames=2), "Which?")
    answers = [vlm.answer_ids(label) for label in labels]
    scores = score_answers(vlm, [encoded], answers)[0]
    for label, answer, score in zip(labels, answers, scores, strict=True):
        logits = vlm.model(**vlm.inputs([encoded], [answer])).logits[0].double().log_softmax(-1)
        expected = logits[-len(answer) - 1 : -1].gather(-1, answer[:, None]).sum()
        assert score.item() == pytest.approx(expected.item(), abs=1e-3), label


@settings(max_examples=8, derandomize=True)
@given(labels=st.composite(_labels)())
def test_labels_that_begin_or_hold_each_other_score_as_alone(vlms: dict[str, VLM], labels: list[str]) -> None:
    _scores_are_those_of_whole_forwards(vlms["qwen2_vl"], labels)


@pytest.mark.nightly
@settings(max_examples=1_000)
@given(labels=st.composite(_labels)())
def test_a_thousand_label_sets_score_as_alone(vlms: dict[str, VLM], labels: list[str]) -> None:
    _scores_are_those_of_whole_forwards(vlms["qwen2_vl"], labels)
