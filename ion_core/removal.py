"""Directories are removed whatever was made of them."""

from __future__ import annotations

import itertools
import os


def remove_directory(home: str) -> None:
    """Remove it with all that is in it: directories that are closed, or more levels of them than a path can name.

    Directories that hold others are emptied by moving those up, so that no path grows long. Follows no link. Raises the
    first OSError once all that can be removed is; what is left then is in ``home``. Blocks.
    """
    moved = (f"{home}/.moved-{os.urandom(4).hex()}-{n}" for n in itertools.count())
    first: OSError | None = None
    waiting = [home]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        if not entry.is_dir(follow_symlinks=False):
                            os.unlink(entry.path)
                            continue
                        os.chmod(entry.path, 0o700)  # else it could be neither moved nor read
                        if directory == home:
                            waiting.append(entry.path)
                        else:
                            place = next(moved)
                            os.rename(entry.path, place)
                            waiting.append(place)
                    except OSError as error:
                        first = first or error
            if directory != home:
                os.rmdir(directory)
        except OSError as error:
            first = first or error
    try:
        os.rmdir(home)  # the last: whatever could not be removed is in it
    except OSError as error:
        raise first or error from None
