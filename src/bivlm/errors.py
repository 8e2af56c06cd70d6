"""The one exception for mistakes that the user can correct."""


class InputError(ValueError):
    """Something that the user gave is wrong: the message says what was given, what is needed, and what to do.

    The command line prints it as one line and exits with 2; anything else that is raised is a bug in this
    package.
    """
