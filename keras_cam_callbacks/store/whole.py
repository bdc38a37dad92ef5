"""Files and folders that are written whole or not at all: under another name first, then moved into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp


def next_free(path: Path) -> Path:
    """Returns the first of name-2, name-3 and so on, before the suffix, that is not there yet."""
    place = path.resolve()
    names = (place.with_name(f"{place.stem}-{number}{place.suffix}") for number in count(2))
    free = next(name for name in names if not os.path.lexists(name))
    return path.with_name(free.name) if path.name else free


def check_free(path: Path, *, folder: bool, overwrite: bool = False) -> None:
    """Checks, before any work, that an output can be put where it shall be.

    Args:
        path: The file, or the folder.
        folder: Whether a folder is written; an empty one may be there already.
        overwrite: Whether a file may replace another.

    Raises:
        ValueError: If something is in the way, or the folder around it is none.
    """
    around = path.resolve().parent
    if not os.path.lexists(path):
        existing = next(place for place in (around, *around.parents) if os.path.lexists(place))
        if not existing.is_dir():
            raise ValueError(f"An output must be put into a folder. Received: {path}, but {existing} is a file.")
        return
    if folder and path.is_dir():
        if not any(path.iterdir()):
            return
        raise ValueError(
            "A folder for results must be empty, or not there yet: nothing is overwritten. "
            f"Received: {path}, which holds files. {next_free(path)} works."
        )
    if path.is_dir():
        raise ValueError(f"A file can't be put where a folder is. Received: {path}. {next_free(path)} works.")
    if folder or not overwrite:
        raise ValueError(
            f"An output must have a name that is free: nothing is overwritten. Received: {path}, which is there "
            f"already. {next_free(path)} works."
        )


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary file name with the same suffix; at the end that file is moved to `path`.

    Where anything goes wrong, nothing is left behind, and a file that was there before stays as it is.

    Raises:
        ValueError: As `check_free` does.
        OSError: If nothing can be written there.
    """
    check_free(path, folder=False, overwrite=overwrite)
    with _workshop(path) as workshop:
        temporary = workshop / f"new{path.suffix}"
        yield temporary
        check_free(path, folder=False, overwrite=overwrite)
        os.replace(temporary, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder; at the end it is moved to `path`. Where anything goes wrong, nothing is left behind.

    Raises:
        ValueError: As `check_free` does.
        OSError: If nothing can be written there.
    """
    check_free(path, folder=True)
    with _workshop(path) as workshop:
        temporary = workshop / "new"
        temporary.mkdir()
        yield temporary
        check_free(path, folder=True)
        if path.is_dir():  # It may be the current folder, or a link: what is in it moves, not the folder itself.
            for made in temporary.iterdir():
                os.rename(made, path / made.name)
        else:
            os.rename(temporary, path)


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """Gives a hidden folder beside `path`, on the same disk, for as long as it is worked in."""
    around = path.resolve().parent
    made = [place for place in (around, *around.parents) if not place.exists()]
    around.mkdir(parents=True, exist_ok=True)
    workshop = Path(mkdtemp(prefix=f".{path.name[:40]}-", dir=around))
    finished = False
    try:
        yield workshop
        finished = True
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        if not finished:
            for place in made:
                if not any(place.iterdir()):
                    place.rmdir()
