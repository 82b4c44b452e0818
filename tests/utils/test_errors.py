"""How a command ends: its exit code, and one plain message for what a user can act on."""

import pytest

from utils.errors import InputError, ReportedByRankZero, command


@command
def main(outcome):
    """Do what it is told."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@pytest.mark.parametrize(("outcome", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_result_is_the_exit_code(outcome, code):
    assert main(outcome) == code


def test_an_input_error_is_one_message_and_code_two(capsys):
    assert main(InputError("looked for x in y; give --z")) == 2
    said = capsys.readouterr()
    assert said.err == "error: looked for x in y; give --z\n"
    assert said.out == ""


def test_a_workers_traceback_is_left_out(capsys):
    traceback = "Caught InputError in DataLoader worker process 0.\nOriginal Traceback ...\n"
    main(InputError(f"{traceback}utils.errors.InputError: the image is cut short\n"))
    assert capsys.readouterr().err == "error: the image is cut short\n"


def test_what_all_processes_meet_the_first_one_says(capsys):
    assert main(ReportedByRankZero("once")) == 2
    assert capsys.readouterr().err == ""


def test_what_another_process_meets_alone_it_says_itself(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(InputError("image 7 is damaged")) == 2
    assert capsys.readouterr().err == "error: image 7 is damaged\n"


def test_a_full_disk_is_told_and_other_errors_of_the_system_pass(capsys):
    assert main(OSError(28, "No space left on device", "run/log.txt")) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: No space left on device: cannot write run/log.txt.")
    assert "--resume true" in message
    with pytest.raises(IsADirectoryError):
        main(IsADirectoryError(21, "Is a directory", "run"))


def test_ctrl_c_ends_without_a_traceback(capsys):
    assert main(KeyboardInterrupt()) == 130
    assert capsys.readouterr().out == "interrupted\n"


def test_other_errors_are_faults_of_the_program_and_pass():
    with pytest.raises(KeyError):
        main(KeyError("x"))


def test_a_command_keeps_its_name_and_text():
    assert (main.__name__, main.__doc__) == ("main", "Do what it is told.")
