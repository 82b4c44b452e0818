"""Types of flags that name files and folders: what cannot be read or written is refused at once."""

from collections.abc import Callable, Iterable
from pathlib import Path

from datasets.formats.finding import SUFFIXES
from utils.errors import InputError, cause_of
from utils.files import check_output, check_writable, is_stream
from utils.limits import check_exists, check_file, check_folder


def file_to_read(flag: str, what: str) -> Callable[[str], Path]:
    """Return an argparse type for a file, or a pipe, to read.

    Like the other types here, it raises `InputError` and not what argparse expects, so that the
    error is one line, without the usage.

    Args:
        flag: such as --groups.
        what: what the flag takes, such as a csv of masks.
    """
    return lambda text: _checked(text, lambda path: check_file(flag, path, what))


def folder_to_read(flag: str, what: str) -> Callable[[str], Path]:
    """Return an argparse type for a folder to read; see `file_to_read`."""
    return lambda text: _checked(text, lambda path: check_folder(flag, path, what))


def path_to_read(flag: str, what: str) -> Callable[[str], Path]:
    """Return an argparse type for a file or folder to read; see `file_to_read`."""
    return lambda text: _checked(text, lambda path: check_exists(flag, path, what))


def file_to_write(flag: str, suffix: str = "") -> Callable[[str], Path]:
    """Return an argparse type for a file to write in a folder that exists."""
    return lambda text: _checked(text, lambda path: check_output_file(flag, path, suffix))


def folder_to_write(text: str) -> Path:
    """Parse a folder to write to, which is an argparse type; it need not exist."""
    return _checked(text, check_writable)


def check_output_file(flag: str, path: Path, suffix: str = "", makes_folder: bool = False) -> None:
    """Check, before the work begins, that a file can be written.

    Args:
        flag: that names it.
        path: the file, or a pipe or device.
        suffix: what the name of a file must end in, so that no file of another kind is replaced,
            such as one that a run needs.
        makes_folder: whether its folder is made if there is none.

    Raises:
        InputError: it cannot, or its name does not end in `suffix`.
    """
    try:
        check_output(path)
    except OSError as error:
        raise InputError(
            f"{flag} {path}: cannot be written to ({cause_of(error)}); choose another {flag}"
        ) from error
    if is_stream(path):
        return
    if not path.name.lower().endswith(suffix):
        raise InputError(f"{flag} {path}: does not end in {suffix}; choose another name")
    folder = path.resolve().parent
    if not (makes_folder or folder.exists()):
        raise InputError(
            f"{flag} {path}: there is no folder {path.parent}; make it, or choose another {flag}"
        )
    check_writable(folder)


def check_not_read(flag: str, path: Path, inputs: Iterable[Path | None]) -> None:
    """Check that a file to write is none that the command reads.

    Args:
        flag: that names it.
        path: the file, or a pipe or device.
        inputs: files and folders that the command reads; None for those that were not given.

    Raises:
        InputError: it is one of the files, or an image in one of the folders.
    """
    if is_stream(path):
        return
    is_image = path.suffix.lower() in SUFFIXES
    for source in filter(None, inputs):
        if path.exists() and source.exists() and path.samefile(source):
            raise InputError(
                f"{flag} {path}: is read by this command; choose another name or folder"
            )
        # A new image in the folder would be taken for one of its own the next time.
        if is_image and source.is_dir() and source.resolve() in path.resolve().parents:
            raise InputError(
                f"{flag} {path}: lies in {source}, whose images are read by this command; choose "
                "another folder"
            )


def _checked(text: str, check: Callable[[Path], None]) -> Path:
    path = Path(text)
    check(path)
    return path
