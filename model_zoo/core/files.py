"""Files appear under their final name only when they are complete, and never on an input."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from model_zoo.core.errors import InputError

_PIECE = 1 << 20  # bytes


@contextmanager
def write_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success.

    If the block raises (disk full, Ctrl-C), the temporary file is removed and a file
    already at ``path`` is left as it was. The parent folder is created. A symbolic link stays
    one: the file that it points to is written.

    Raises:
        InputError: At ``path`` is a device, a pipe or a socket.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "result.txt"
        >>> with write_aside(target) as partial:
        ...     _ = partial.write_text("done")
        >>> target.read_text()
        'done'
    """
    final = through_link(path)
    if final.exists() and not (final.is_file() or final.is_dir()):
        raise InputError(f"{path}: not a regular file; nothing was written")
    final.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers choose the format, or append one, by it.
    partial = final.with_name(f".{final.stem}.partial-{os.getpid()}{final.suffix}")
    try:
        yield partial
        os.replace(partial, final)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """What goes wrong inside is that ``path`` cannot be written: a full disk, a folder of others.

    Raises:
        InputError: In place of the system's error; names the file.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def through_link(path: str | os.PathLike[str]) -> Path:
    """The file that a symbolic link points to, and any other path as it is."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def sha256(files: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 of the bytes of files, one after the other, as 64 hex digits; in little memory.

    Raises:
        OSError: One cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def require_apart(
    inputs: Mapping[str, str | os.PathLike[str] | None],
    outputs: Mapping[str, str | os.PathLike[str]],
) -> None:
    """Refuse outputs that are inputs, or that lie in a folder that is one; links are resolved.

    Args:
        inputs: What each is, for the message -> its path; ``None`` is not there.
        outputs: The same for what will be written.

    Raises:
        InputError: Naming both, for every such pair.
    """
    read = {name: (path, os.path.realpath(path)) for name, path in inputs.items() if path}
    problems = []
    for output, target in outputs.items():
        place = Path(os.path.realpath(target))
        for name, (source, real) in read.items():
            if place == Path(real) or _is_same(place, real):
                problems.append(f"{output} {target} is {name} {source}: it would be replaced")
            elif Path(real) in place.parents:
                problems.append(f"{output} {target} lies in {name} {source}, which is read")
    if problems:
        raise InputError(problems)


def require_writable(
    files: Iterable[str | os.PathLike[str]], folders: Iterable[str | os.PathLike[str]] = ()
) -> None:
    """Refuse outputs that could not be written, before the work that makes them.

    What is there already has to be writable; where nothing is, the nearest folder above has to
    take a file. A symbolic link stands for what it points to. Nothing is left behind.

    Args:
        files: Files that will be written.
        folders: Folders that files will be written into, which may not be there yet.

    Raises:
        InputError: Naming each one and why.
    """
    reasons = {Path(path): _unwritable(through_link(path), file=False) for path in folders}
    found = [f"{path}: cannot write results there: {why}" for path, why in reasons.items() if why]
    for path in map(Path, files):
        why = None if reasons.get(path.parent) else _unwritable(through_link(path), file=True)
        found += [f"{path}: cannot be written: {why}"] if why else []
    if found:
        raise InputError(found)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        InputError: It cannot be made, and why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot write results there: {error.strerror}") from None


def _unwritable(path: Path, *, file: bool) -> str | None:
    """Why a file, or a file in a folder, cannot be written there."""
    try:
        if path.is_symlink():
            return "it is a link to itself"
        if file and path.is_dir():
            return "it is a folder, expected the name of a file"
        if file and path.exists():
            if not path.is_file():
                return "it is not a regular file"
            os.close(os.open(path, os.O_WRONLY))  # as it is: not emptied
        above = path.parent if file else path
        while not above.exists():
            if above.is_symlink():
                return f"{above} is a link to nothing"
            above = above.parent
        if not above.is_dir():
            return f"{above} is a file, expected a folder"
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        return error.strerror or str(error)
    return None


def _is_same(path: Path, other: str) -> bool:
    """Whether two names are one file, as on a file system that does not tell cases apart."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
