"""Cleaning of texts, and the ranges of characters that the program distinguishes."""

from __future__ import annotations

import re

MAX_DETAIL_CHARACTERS = 300

_LONE_SURROGATE = "[\ud800-\udfff]"
_NEEDS_CLEANING = "[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f]"
_CONTROL_CHARACTERS = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]"  # U+0085 is a line end, not a control

# Character ranges, for use within the brackets of a regular expression. Some are escaped: editors turn U+F900 into
# U+8C48. CJK means Han, kana and Hangul.
# Each of these characters counts as one word when two texts are compared or their words are shown.
WORD_CHARACTERS = "\u3400-\u9fff\uf900-\ufaff\u3041-\u30ff\uac00-\ud7a3"
# Two adjacent characters of these count as one word when a reply is compared with a request. These are
# the whole blocks of kana and Hangul.
PAIRED_CHARACTERS = "\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af"
# The token estimate has a coefficient for these characters: whole blocks, also characters that are no letters.
WEIGHED_CJK = "\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af"
# The characters of WEIGHED_CJK that are certainly letters. Hardly any others of WEIGHED_CJK are in texts.
WEIGHED_CJK_LETTERS = "\u3400-\u4dbf\u4e00-\u9fef\u3041-\u3096\u30a1-\u30fa\uac00-\ud7a3"
# Writing systems. A text is written in the one that most of its letters belong to.
SCRIPTS = {
    "latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af",
    "kana": "ぁ-ヿㇰ-ㇿ",
    "hangul": "가-힣ᄀ-ᇿ",
    "cyrillic": "Ѐ-ԯ",
    "greek": "Ͱ-Ͽἀ-῿",
    "arabic": "ؠ-ۿݐ-ݿࢠ-ࣿ",
    "hebrew": "א-ת",
    "indic": "ऀ-෿",
    "thai": "ก-๛",
}


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which no file, no store and no request can hold."""
    return text if text.isascii() else re.sub(_LONE_SURROGATE, "\ufffd", text)


def count_lone_surrogates(text: str) -> int:
    """Count the lone surrogates in a text."""
    return 0 if text.isascii() else len(re.findall(_LONE_SURROGATE, text))


def clean_text(text: str) -> str:
    """Clean a text for the store: no lone surrogates, no control characters but tab and newline."""
    if text.isprintable():  # nearly all texts, and the empty one
        return text.strip()
    text = replace_surrogates(text)
    if re.search(_NEEDS_CLEANING, text):
        text = re.sub(_CONTROL_CHARACTERS, "", text.replace("\r\n", "\n").replace("\r", "\n"))
    return text.strip()


def one_line(detail: object) -> str:
    """Shorten a provider's message to one line of bounded length."""
    try:
        words = str(detail)
    except RecursionError:  # an object nested a thousand deep
        words = type(detail).__name__
    return clean_text(" ".join(words.split()))[:MAX_DETAIL_CHARACTERS].strip()


def has_words(text: str) -> bool:
    """Whether the text has a letter or a digit of any script, or an emoji."""
    return text[:1].isalnum() or any(map(_is_readable, text))


def _is_readable(character: str) -> bool:
    """Letters and digits of any script, and emoji; not punctuation, blanks, invisible or replacement characters."""
    if character.isalnum():
        return True
    from unicodedata import category

    return not character.isascii() and character != "\ufffd" and category(character).startswith("S")


def fill_length(instructions: str, characters: int) -> str:
    """Fill in {length} of the instructions of a stage. Any other brace is plain text."""
    return instructions.replace("{length}", str(characters))
