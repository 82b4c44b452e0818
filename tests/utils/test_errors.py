"""How a command exits: its exit code, and one message for an error that the user can fix."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest

from datasets.formats.masks import MaskError
from utils.console import print0
from utils.errors import (
    InputError,
    ReportedByRankZero,
    cause_of,
    code_for_all,
    command,
    one_line,
)
from utils.signals import EXIT_RETRY, Stopped


@command
def main(outcome):
    """Return or raise `outcome`."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_result_is_the_exit_code(outcome, code):
    assert main(outcome) == code


def test_an_input_error_is_one_message_and_code_two(capsys):
    assert main(InputError("looked for x in y; give --z")) == 2
    printed = capsys.readouterr()
    assert printed.err == "error: looked for x in y; give --z\n"
    assert printed.out == ""


@pytest.mark.parametrize("kind", [InputError, MaskError])
def test_the_traceback_of_a_worker_is_left_out(capsys, kind):
    traceback = f"Caught {kind.__name__} in DataLoader worker process 0.\nOriginal Traceback ...\n"
    main(kind(f"{traceback}{kind.__module__}.{kind.__name__}: the image is cut short\n"))
    assert capsys.readouterr().err == "error: the image is cut short\n"


def test_an_error_of_all_processes_is_reported_by_rank_0_only(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(ReportedByRankZero("once")) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK"])
def test_only_rank_0_ends_with_the_code_of_processes_that_stop_together(monkeypatch, variable):
    """Fabric and torchrun kill rank 0 if another process ends with anything but 0."""
    for rank, code in (("0", EXIT_RETRY), ("1", 0)):
        monkeypatch.setenv(variable, rank)
        assert main(Stopped("resume with: x")) == code
        assert code_for_all(EXIT_RETRY) == code


def test_an_error_of_a_single_process_is_reported_by_that_process(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(InputError("image 7 is damaged")) == 2
    assert capsys.readouterr().err == "error: image 7 is damaged\n"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make it accessible or choose another folder"),
        (errno.EACCES, "make it accessible or choose another folder"),
        (errno.ENOENT, "it is missing, or was removed or renamed in the meantime: restore it"),
        (errno.ENOTDIR, "it is missing, or was removed or renamed in the meantime: restore it"),
        (errno.EISDIR, "fix the cause"),
        (errno.EIO, "fix the cause"),
    ],
)
def test_an_error_of_the_file_system_is_one_line_with_the_file_the_reason_and_advice(
    capsys, code, advice
):
    assert main(OSError(code, os.strerror(code), "run/log.txt")) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: run/log.txt: {os.strerror(code)}; ")
    assert advice in message
    assert message.endswith("run the command again (to continue a training, with --resume true)\n")
    assert message.count("\n") == 1


def test_a_file_name_of_bytes_is_printed_as_text(capsys):
    """As TensorBoard's are."""
    assert main(OSError(errno.EROFS, "Read-only", b"run/events")) == 2
    assert capsys.readouterr().err.startswith("error: run/events: Read-only; ")


def test_a_full_disk_is_reported_without_a_file_and_other_nameless_errors_are_raised(capsys):
    assert main(OSError(errno.ENOSPC, "No space left on device")) == 2
    assert capsys.readouterr().err.startswith("error: a file: No space left on device; ")
    with pytest.raises(BlockingIOError):
        main(BlockingIOError(errno.EAGAIN, "busy"))


def test_names_that_are_no_text_are_printed_as_escapes(monkeypatch):
    """Latin-1 bytes in a file name are no UTF-8, and Python keeps them as surrogates."""
    printed = io.BytesIO()
    stdout = io.TextIOWrapper(printed, encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stdout)
    path = Path(os.fsdecode(b"Th\xf6rax.png"))

    @command
    def show():
        print(path)
        print0(f"{path}")

    assert show() == 0
    assert printed.getvalue() == b"Th\\udcf6rax.png\n" * 2


def test_output_that_nobody_reads_ends_a_command_silently(monkeypatch, capfd):
    """As with | head."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)

        @command
        def show():
            print("a line that is only written when the command ends")

        assert show() == 141
    assert capfd.readouterr().err == ""


def test_another_pipe_that_broke_is_a_bug():
    with pytest.raises(BrokenPipeError):
        main(BrokenPipeError(errno.EPIPE, "Broken pipe"))


def test_a_dead_worker_that_nothing_else_explains_is_one_line(capsys):
    assert main(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: a worker process was killed, as the kernel does")
    assert "--num_workers" in message
    assert "--resume true" in message
    assert message.count("\n") == 1
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(RuntimeError("shapes differ"))


def test_ctrl_c_ends_without_a_traceback(capsys):
    assert main(KeyboardInterrupt()) == 130
    assert capsys.readouterr().out == "interrupted\n"


def test_a_package_that_is_not_installed_is_one_line(capsys):
    assert main(ModuleNotFoundError("No module named 'torch'", name="torch")) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: not installed: torch")
    assert message.endswith("requirements.txt\n")
    with pytest.raises(ModuleNotFoundError):
        main(ModuleNotFoundError("a module of our own", name="utils.nowhere"))


def test_other_errors_are_bugs_and_raised():
    with pytest.raises(KeyError):
        main(KeyError("x"))


def test_a_command_keeps_its_name_and_docstring():
    assert (main.__name__, main.__doc__) == ("main", "Return or raise `outcome`.")


def test_a_library_s_message_becomes_one_line_that_is_cut_between_words():
    assert one_line(ValueError("first\n\tsecond  third")) == "first second third"
    assert one_line("word " * 99, 20) == "word word word ..."


def test_the_cause_of_an_error_has_no_number_and_no_file():
    assert cause_of(OSError(errno.EISDIR, "Is a directory", "a.csv")) == "Is a directory"
    assert cause_of(OSError("cannot send")) == "cannot send"
    assert cause_of(ValueError("no number")) == "no number"
