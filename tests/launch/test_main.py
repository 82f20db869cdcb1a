"""The command line as a whole: commands, help, and an interruption."""

import pytest

from allgrad.launch.__main__ import main
from allgrad.launch.options import OPTIONS


def test_commands_that_do_not_exist_and_help(capsys):
    assert main(["fly"]) == 2 and "invalid choice: 'fly'" in capsys.readouterr().err
    assert main(["train", "--epoch", "5"]) == 2 and "--epoch 5, is --epochs meant?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0 and "{train,predict" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert left.value.code == 0 and all(option.flag in printed for option in OPTIONS)


def test_an_interrupted_command_says_by_what(capsys, monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("allgrad.launch.__main__._command", interrupt)
    assert main(["train"]) == 130
    assert "interrupted by SIGINT" in capsys.readouterr().err
