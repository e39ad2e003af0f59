"""What is written for whoever reads it, for as long as somebody does."""

import errno
import os
import sys
from typing import TextIO


def say(text: str) -> None:
    """Write a document or a line on stdout, word for word: `| head` ends nothing."""
    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        let_go(sys.stdout)


def let_go(stream: TextIO) -> None:
    """Send what is still to be written to a stream nowhere: after EPIPE or EIO nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
