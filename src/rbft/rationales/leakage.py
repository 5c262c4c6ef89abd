"""How much the words of rationales give their labels away, and whether it is the labels' own names that do.

Stage I is to teach what clips show. Where a classifier that never sees a clip tells the labels by the rationales'
words, and no longer does once the labels' names are masked, the rationales teach the names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from rbft.answers import AuditThresholds, names_label, without_labels, words_of
from rbft.records import Rationale
from rbft.results import Leakage


def leakage_of(
    rationales: Sequence[Rationale], truths: Mapping[str, str], labels: Sequence[str], thresholds: AuditThresholds
) -> Leakage | None:
    """What the words of all texts with words say about their clips' labels (`truths`: by clip id), kept or dropped.

    Logistic regression on which words a text has, in folds; over three labels and more the area is the mean of one
    label against the rest. Labels with too few texts are left out; None where fewer than two labels are left.
    """
    rules = thresholds.leakage
    told = [(r.text, truths[r.clip_id]) for r in rationales if r.clip_id in truths and words_of(r.text)]
    counts = Counter(label for _, label in told)
    told = [(text, label) for text, label in told if counts[label] >= rules.min_texts_a_label]
    if len({label for _, label in told}) < 2:
        return None
    texts, found = [text for text, _ in told], [label for _, label in told]
    auc, accuracy = _classified(texts, found, rules.folds)
    masked, _ = _classified([without_labels(text, labels, thresholds) for text in texts], found, rules.folds)
    return Leakage(
        texts=len(texts),
        names_label=sum(names_label(text, labels, thresholds) is not None for text in texts) / len(texts),
        majority=max(Counter(found).values()) / len(found),
        accuracy=accuracy,
        auc=auc,
        auc_masked=masked,
        flagged=auc > rules.auc and auc - masked > rules.fall,
    )


def leakage_note(leakage: Leakage | None) -> str | None:
    """A warning where the labels' names alone give the labels away; None where they do not."""
    if leakage is None or not leakage.flagged:
        return None
    return (
        f"the rationales name their labels: their words alone tell the labels apart (area under the curve "
        f"{leakage.auc:.2f}), and with the names masked they do less ({leakage.auc_masked:.2f}); "
        f"{100 * leakage.names_label:.0f} % name a label. Such texts are not learnt; change the prompt or the engine"
    )


def _classified(texts: Sequence[str], labels: Sequence[str], folds: int) -> tuple[float, float]:
    """Area under the ROC curve and accuracy of held-out folds."""
    names = sorted(set(labels))
    truth = np.array([names.index(label) for label in labels])
    words = CountVectorizer(analyzer=words_of, binary=True).fit_transform([*texts, "a"])[:-1]  # one word at the least
    chances = cross_val_predict(
        LogisticRegression(max_iter=10_000),
        words,
        truth,
        cv=StratifiedKFold(folds, shuffle=True, random_state=0),
        method="predict_proba",
    )
    score = chances[:, 1] if len(names) == 2 else chances
    area = roc_auc_score(truth, score, multi_class="raise" if len(names) == 2 else "ovr")
    return float(area), float((chances.argmax(axis=1) == truth).mean())
