"""Texts that are no prose, or not in the language they were asked for in; no good text is taken for one."""

from __future__ import annotations

import itertools
import json

import pytest

from rbft.answers import load_thresholds
from rbft.prompts import load_prompts
from rbft.rationales.form import is_json, language_of

COMMON = load_thresholds().common_words
IN = {
    "en": "A woman walks up the path with a small dog. She stops at the door and rings the bell.",
    "de": "Eine Frau geht mit einem kleinen Hund den Weg entlang. Sie bleibt vor der Tür stehen und klingelt.",
    "fr": "Une femme marche sur le chemin avec un petit chien. Elle s'arrête à la porte et sonne.",
    "es": "Una mujer camina por el sendero con un perro pequeño. Se detiene en la puerta y toca el timbre.",
    "it": "Una donna cammina lungo il sentiero con un cane. Si ferma alla porta e suona, poi guarda la strada.",
    "pt": "Uma mulher caminha pela calçada com um cão pequeno. Ela para na porta e toca a campainha do prédio.",
    "nl": "Een vrouw loopt met een kleine hond over het pad. Zij stopt bij de deur en belt aan.",
    "zh": "一名女子牵着一只小狗走在小路上，她在门口停下，按了门铃。",
    "ja": "女性が小さな犬を連れて道を歩いています。ドアの前で止まり、ベルを鳴らします。",
    "ko": "한 여성이 작은 개를 데리고 길을 걷고 있습니다. 문 앞에서 멈추고 초인종을 누릅니다.",
    "cyrillic": "Женщина идёт по дорожке с маленькой собакой. Она останавливается у двери и звонит.",
    "arabic": "امرأة تمشي في الطريق مع كلب صغير ثم تتوقف عند الباب",
    "devanagari": "एक महिला एक छोटे कुत्ते के साथ रास्ते पर चल रही है",
}


@pytest.mark.parametrize("language", IN)
def test_languages_are_told_by_letters_and_common_words(language: str) -> None:
    assert language_of(IN[language], COMMON) == language


@pytest.mark.parametrize(
    "text", ["", "123 …", "Subjects: dog. Attributes: red. Actions: runs. Scenes: yard.", "chien", "the and is la le"]
)
def test_what_is_too_short_or_between_two_languages_is_not_told(text: str) -> None:
    assert language_of(text, COMMON) is None


def test_the_prompts_are_english() -> None:
    for name in ("default", "brief"):
        prompts = load_prompts(name, persona="guard", labels={})
        assert language_of(prompts.rationale(), COMMON) == "en"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"subjects": "a dog", "actions": "runs"}),
        json.dumps([{"subjects": "a dog"}], indent=2),
        json.dumps(["a dog", "a cat"]),
        '```json\n{"subjects": "a dog"}\n```',
        'Here is the description:\n```json\n{"subjects": "a dog"}\n```',
        'json {"subjects": "a dog"',
        '{"subjects": "a dog", "act',
        "{'subjects': 'a dog'}",
        "{}",
    ],
)
def test_json_is_found_whole_or_cut(text: str) -> None:
    assert is_json(text)


def test_five_hundred_good_texts_are_prose_and_none_in_another_language() -> None:
    who = ["A man in a dark coat", "Two children", "A dog (brown)", "A courier named DHL", "Nobody"]
    does = ["walks to the left", 'says "hello" to a neighbour', "is at the gate", "[unclear] runs", "stops, then waits"]
    where = ["in the yard", "on the porch of a café", "at the La Plata hotel", "near a sign {EXIT}", "by the river"]
    style = ["{} {} {}.", "Subjects: {}. Actions: {}. Scenes: {}.", "{} {} {} - the light is on.", "**{}** {} {}!"]
    good = [s.format(*parts) for s in style for parts in itertools.product(who, does, where)]
    assert len(good) == 500
    assert [text for text in good if is_json(text)] == []
    assert [text for text in good if language_of(text, COMMON) not in ("en", None)] == []
