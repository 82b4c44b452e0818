"""How a command exits: its exit code, and one message for an error that the user can fix."""

import pytest

from datasets.formats.masks import MaskError
from utils.errors import InputError, ReportedByRankZero, command


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


def test_an_error_of_all_processes_is_reported_by_rank_0_only(capsys):
    assert main(ReportedByRankZero("once")) == 2
    assert capsys.readouterr().err == ""


def test_an_error_of_a_single_process_is_reported_by_that_process(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(InputError("image 7 is damaged")) == 2
    assert capsys.readouterr().err == "error: image 7 is damaged\n"


def test_a_full_disk_is_reported_and_other_os_errors_are_raised(capsys):
    assert main(OSError(28, "No space left on device", "run/log.txt")) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: No space left on device: cannot write run/log.txt.")
    assert "--resume true" in message
    with pytest.raises(IsADirectoryError):
        main(IsADirectoryError(21, "Is a directory", "run"))


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


def test_other_errors_are_bugs_and_raised():
    with pytest.raises(KeyError):
        main(KeyError("x"))


def test_a_command_keeps_its_name_and_docstring():
    assert (main.__name__, main.__doc__) == ("main", "Return or raise `outcome`.")
