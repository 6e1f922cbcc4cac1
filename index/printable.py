"""Text from elsewhere made safe to print: invisible characters, and those that move the cursor, are escaped."""

import re

_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""What counts as printable and shows nothing: fillers, the blank of Braille, selectors of a variant."""


def is_visible(text: str) -> bool:
    """Return whether every character of a text can be seen, the space counted among them."""
    return text.isprintable() and not _BLANK.search(text)


def visible(text: str) -> str:
    r"""Return a text on one line, each character that cannot be seen written as Python escapes it: \x1b, \n, \u202e.

    Such are control characters, what turns the direction of writing, joiners, blanks other than the space, halves of a
    surrogate pair, and what the version of Unicode that Python has does not know.
    """
    if is_visible(text):
        return text
    return "".join(
        character if is_visible(character) else character.encode("unicode_escape").decode("ascii") for character in text
    )
