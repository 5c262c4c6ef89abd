"""Well-formed inputs of every target: what fuzzing starts from."""

from __future__ import annotations

import json
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
_CSV = (
    "path,label,clip_id,split,group,start,end,rationale,boxes,category\n"
    'a.mp4,fall,one,train,g1,0,2.5,"he fell, ""hard""","[{""t"": 0.5, ""box"": [0, 0, 0.5, 1]}]",home;day\n'
    "b/c.mp4,no,two,test,g2,,,,,\n"
)
_ROW = {"path": "a.mp4", "label": "fall", "clip_id": "x", "split": "train", "start": 1, "end": 2.5, "category": ["a"]}
_LLAVA = {
    "id": "v1", "video": "a.mp4", "split": "test",
    "conversations": [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "fall"}],
}  # fmt: skip
_QUESTION = {
    "question_id": "q1", "path": "a.mp4", "start": 0.0, "end": 4.0, "kind": "multiple choice", "text": "Which?",
    "options": ["A. a cat", "B. a dog"], "answer": "A", "category": ["animals"],
}  # fmt: skip
_VIDEORFT = {
    "problem_id": 7, "problem": "How many?", "data_type": "video", "problem_type": "numerical", "options": [],
    "process": "<think>two</think>", "solution": "<answer>2</answer>", "path": "./a.mp4", "data_source": "x",
}  # fmt: skip
_VSI = {
    "id": 1, "dataset": "arkit", "scene_name": "42", "question_type": "object_counting", "question": "How many?",
    "ground_truth": "4", "options": None,
}  # fmt: skip
_PREDICTION = {
    "schema_version": 1, "clip_id": "a", "checkpoint": "k", "labels": ["x", "y"], "logprobs": [-0.1, -2.0],
    "label": "x", "truth": "y", "text": None, "text_label": None,
}  # fmt: skip
_FRAME = {
    "timestamp": 0.0, "caption": "a room", "key_elements": {
        "objects": ["chair"], "actions": [], "scene": "room", "notable_features": [], "spatial_relations": [],
        "human_attributes": None, "potential_interactions": [],
    },
}  # fmt: skip


def _json(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SEEDS: dict[str, tuple[bytes, ...]] = {
    "manifest-csv": (_CSV.encode(), b"\xef\xbb\xbfpath;label\r\na.mp4;no\r\n"),
    "manifest-tsv": (_CSV.replace(",", "\t").encode(),),
    "manifest-jsonl": (_json(_ROW, _LLAVA),),
    "manifest-json": (json.dumps([_ROW, _LLAVA]).encode(),),
    "annotation": (
        b"Title,Label,Category,Video Description,Reasoning behind Normality/Anomalies\nv1,Normal,Baby,a,b\n",
        b"Video_ID,Majority_Voting,Target_Victim\nv1,Hateful,\"['Woman', 'Man']\"\n",
        json.dumps([_LLAVA]).encode(),
    ),
    "question-benchmark": (_json(_VSI), json.dumps([_VSI, _QUESTION]).encode()),
    "questions": (_json(_QUESTION), _json(_VIDEORFT)),
    "experiment": tuple(file.read_bytes() for file in sorted(EXAMPLES.glob("*.yaml")) if "curation" not in file.name),
    "override": (b"seeds=[1]\ntraining.epochs=2\nlabels.no=a day", b"arms=[direct, {name: x, stages: [label]}]"),
    "curation": tuple(file.read_bytes() for file in sorted(EXAMPLES.glob("*curation*.yaml"))),
    "templates": tuple(
        (Path(__file__).parents[2] / "src" / "rbft" / "prompts" / name).read_bytes()
        for name in ("default.yaml", "curate.yaml", "audit.yaml")
    ),
    "model-config": (b'{"model_type": "qwen2_5_vl", "auto_map": {"AutoConfig": "mine.Config"}}',),
    "records": (_json(_PREDICTION),),
    "predictions": (b"clip_id,label,predicted\na,x,x\nb,y,\n",),
    "answers": (
        b"<think>so</think><answer>B. a dog</answer>", b"The answer is **abnormal**.", b"about 1,234.5 km/h",
        "−3 ½|4 m²".encode(), b"Label: no\nwhy not",
    ),
    "rationale": (b"Subjects: a man. Scene: a yard, e.g. at night. It is normal!", b"I'm sorry, I cannot see. " * 9),
    "representation": (json.dumps({"caption": "a room", "frames": [_FRAME]}).encode(),),
}  # fmt: skip
