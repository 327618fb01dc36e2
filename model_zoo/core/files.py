"""Files appear under their final name only when they are complete, and never on an input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from model_zoo.core.errors import InputError


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


def through_link(path: str | os.PathLike[str]) -> Path:
    """The file that a symbolic link points to, and any other path as it is."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


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


def _is_same(path: Path, other: str) -> bool:
    """Whether two names are one file, as on a file system that does not tell cases apart."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
