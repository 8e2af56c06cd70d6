"""The one exception for mistakes that the user can correct, and how its message quotes what was given."""

from collections.abc import Iterable
from difflib import get_close_matches

QUOTED = 60  # characters of a quoted value in a message


class InputError(ValueError):
    """Something that the user gave is wrong: the message says what was given, what is needed, and what to do.

    The command line prints it as one line and exits with 2; anything else that is raised is a bug in this
    package.
    """


def no_such(kind: str, given: str, names: Iterable[str], more: str = "") -> InputError:
    """The error for a name that is not in a table: the nearest names, if any is near, and all of them; `more`
    ends the sentence.
    """
    known = list(names)
    near = get_close_matches(given.lower(), known, n=3)
    meant = f"did you mean {' or '.join(near)}? There are" if near else "there are"
    return InputError(f"there is no {kind} {cut(repr(given))}; {meant} {', '.join(known)}{more}")


def cut(text: str, most: int = QUOTED) -> str:
    """At most `most` characters of a text, on one line: what cannot be printed (line breaks, terminal codes,
    half characters) is escaped.
    """
    return printable(text if len(text) <= most else f"{text[: most - 1]}…")


def printable(text: str) -> str:
    """The text with every character that cannot be printed as its escape: a line break becomes `\\n`."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
