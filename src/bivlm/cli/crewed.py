"""A command that several processes run together: the first says what there is to say, and all end with one
exit code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from bivlm.cli.faults import Silent, explained, tell
from bivlm.crew import Crew
from bivlm.crew.joining import join


@contextmanager
def crewed() -> Iterator[Crew]:
    """The crew that the environment names (torchrun); alone otherwise, and then this does nothing."""
    crew = join()
    if crew.size == 1:
        yield crew
        return
    if not crew.is_first:  # warnings about weights are in the report, which the first rank gets
        logging.getLogger("bivlm").addHandler(logging.NullHandler())
        logging.getLogger("bivlm").propagate = False
    try:
        yield crew
    except BaseException as error:
        crew.tell(error)
        heard = crew.error or error
        if crew.speaks:
            code = tell(heard)
            crew.told()
        else:
            code = explained(heard)[0]
            crew.wait_until_told()
        crew.leave()
        raise Silent(code) from None
    crew.leave()
