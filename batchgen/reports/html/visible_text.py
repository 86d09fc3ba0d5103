"""Show characters that cannot be seen: each one gets a visible sign. Pure.

Such characters can hide words from a reader or show them in another order. `page.js` has the same rule (`INVISIBLE`)
for the texts that it shows.
"""

from __future__ import annotations

from itertools import groupby
from unicodedata import category

from markupsafe import Markup, escape

INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp"})  # control, format, line and paragraph separators
# Fillers and variation selectors, which are in other categories. U+FE0E and U+FE0F are left out: they stand behind
# symbols and choose between text and emoji, which can be seen.
INVISIBLE_RANGES = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180D),
    (0x180F, 0x180F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0D),
    (0xFFA0, 0xFFA0),
    (0xE0100, 0xE01EF),
)
_SIGN = Markup('<span class="sign" dir="ltr" title="U+{:04X}">{}</span>')
_IN_HTML = {"\0": "", "\r": Markup("&#13;")}  # a browser would drop the first and read the second as a line end


def is_invisible(character: str) -> bool:
    """Whether nothing is seen of the character. Tab, newline and blanks are seen as the gaps that they are."""
    if character in "\t\n":
        return False
    code = ord(character)
    return category(character) in INVISIBLE_CATEGORIES or any(low <= code <= high for low, high in INVISIBLE_RANGES)


def visible(text: str) -> Markup:
    """Return the text as HTML, with each invisible character within a sign whose title is the code point."""
    return Markup("").join(
        Markup("").join(map(_sign, run)) if hidden else escape("".join(run))
        for hidden, run in groupby(text, key=is_invisible)
    )


def _sign(character: str) -> Markup:
    return _SIGN.format(ord(character), _IN_HTML.get(character, character))
