"""The words of the page, explained for a reader who has never seen it."""

from __future__ import annotations

from rbft.results import Report

ARM_MEANINGS = {
    "zero-shot": "The model as it was downloaded, with no training at all.",
    "direct": "One training stage, on the labels: the usual fine-tuning.",
    "direct-matched": (
        "Direct training on the labels, for as many optimizer steps as rb-ft takes in both of its stages. "
        "It separates the effect of rationales from the effect of more training."
    ),
    "rb-ft": (
        "Rationale-bootstrapped fine-tuning: a first stage on the rationales that the model wrote itself, "
        "then a second stage on the labels."
    ),
    "rb-ft-p+c+r": "As rb-ft, but in the first stage the label stands before the rationale.",
    "rb-ft-p+r+c": "As rb-ft, but in the first stage the label stands after the rationale.",
    "rb-ft-voted": "As rb-ft, but each rationale is a vote, dimension by dimension, over seven sampled ones.",
    "rb-ft-confident": "As rb-ft-voted, but only the half that the samples agree on most is learnt.",
    "rb-ft-right": (
        "As rb-ft-voted, but of a labelled clip only those rationales vote after which the model gives its label."
    ),
    "rb-ft-audited": "As rb-ft, but rationales that contradict the clip's label are not learnt.",
    "rb-ft-labelled": "As rb-ft, but rationales of unlabelled clips are not learnt.",
    "rb-ft-distilled": "As rb-ft, but rationales are learnt as the answer to a plain request, without the persona.",
    "rb-ft-hinted": (
        "As rb-ft, but rationales come from a prompt that tells the label, and only those that say what the model had "
        "said without it are learnt."
    ),
    "rb-ft-twice": "As rb-ft, with a second round of rationales before the labels, written by the adapted model.",
    "rb-ft-labels-first": "As rb-ft, but the model learns the labels before it writes its rationales, and again after.",
    "rb-ft-joint": "Rationales and labels are learnt together in one stage, in as many optimizer steps as rb-ft takes.",
    "videorft": (
        "First curated thoughts that led to the right label are learnt, with the label; then answers are sampled and "
        "rewarded."
    ),
    "rb-ft-describe": "As rb-ft, but the model describes a clip first, and the label is asked for after that.",
}

REASON_MEANINGS = {
    "empty": "nothing, or next to nothing, was written",
    "truncated": "cut off at the token limit",
    "repeating": "says the same thing over and over",
    "refusal": "declines to describe the clip",
    "names_label": "gives a label away",
    "off_template": "does not follow the form that was asked for",
    "contradicts_label": "argues for another label than the clip's",
    "not_prose": "is JSON, and prose was asked for",
    "other_language": "is in another language than the prompt",
    "low_agreement": "among those that several samples agreed on least",
    "changed_by_hint": "says something else once the label is told",
    "no_reply": "the engine gave no answer; the next run asks again",
    "not_json": "the representation is not JSON of the form that was asked for, twice",
    "frame_count": "the representation has not one object for each frame",
    "outside_clip": "the representation has time stamps outside the clip, or out of order",
    "no_thought": "not written as <think>…</think> (and <answer>…</answer>)",
    "names_notes": "speaks of captions or notes and not of the video",
    "wrong_answer": "does not lead to the true answer",
    "changed_answer": "the revision came to another answer",
    "holds_tags": "holds the tags of a reasoned answer, so that it could not be read back out of one",
    "other_label": "the model gives another label after it than the clip's",
}

_TERMS = {
    "arm": "One way to treat the model: a list of training stages. All arms see the same clips, frames and seeds.",
    "stage": "One round of training that starts from a checkpoint and leaves a new one.",
    "seed": "The number that fixes every random choice. Arms are trained once for each seed.",
    "rationale": "A short description of a clip (subjects, attributes, actions, scene) that reasons without its label.",
    "accuracy": "Share of the test clips that got the right label. An answer that cannot be read counts as wrong.",
    "95 % interval": (
        "The range in which the true value plausibly lies, given these clips and seeds. "
        "The dot is the estimate, the whisker the interval, small ticks are single seeds."
    ),
    "F1": "For one label: the harmonic mean of precision (of the clips called so, how many are) and recall.",
    "macro-F1": "The mean of F1 over the labels with test clips: a rare label weighs as much as a frequent one.",
    "unreadable": "Share of the answers that name no label, or more than one.",
    "generated": (
        "A second readout: the model writes an answer freely and a strict reader looks for the label. "
        "The other columns score every label by its probability instead."
    ),
    "steps": "Optimizer steps over all stages of the arm.",
    "majority class": "Always answering with the most frequent label. An arm below it has learnt less than a count.",
    "difference": "Accuracy of one arm minus the other, in percentage points, on the same clips.",
    "p": (
        "How often a difference this large would appear if the two arms were equally good: an exact paired test on "
        "the clips, which over several seeds also has to hold against the spread between seeds."
    ),
    "smallest detectable difference": "What the two arms would have to differ by for these clips to show it.",
    "calibration error": "How far confidence and the share of right answers lie apart on average; 0 is perfect.",
    "confidence": "The probability that the model gives to its own answer.",
    "fingerprint": "A hash of an input. Two runs with equal fingerprints worked on the same thing.",
}


def glossary(report: Report) -> dict[str, str]:
    """The terms that this report uses: its known arms, then the columns."""
    arms = {name: ARM_MEANINGS[name] for name in report.arms if name in ARM_MEANINGS}
    return arms | _TERMS


QUESTION_GLOSSARY = {
    "score": "What an answer is worth, 0 to 1, by the kind of its question; an answer that cannot be read is worth 0.",
    "multiple choice, numerical": "1 for the right option, or for the number to two decimals.",
    "OCR": "1 minus the word error rate, at least 0.",
    "free-form": "Mean of ROUGE-1, ROUGE-2 and ROUGE-L F1 with the true answer.",
    "regression (MRA)": "Mean relative accuracy as VSI-Bench defines it: the share of ten thresholds, 50 to 95 %, that "
    "the number comes near enough for.",
    "unreadable": "Texts that no answer could be taken out of.",
    "cut off": "Texts that reached the token limit.",
    "p": "How often a difference this large would come up if two arms were equally good: whole clips swapped between "
    "them, and over several seeds also the spread between seeds.",
    "steps": "Optimizer steps of all stages.",
}
"""Of a run about questions."""
