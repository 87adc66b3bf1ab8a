import signal
import subprocess
import sys

import pytest
import torch
from support.project import ROOT

from pilot.errors import PilotError
from pilot.runtime.cli import Parser, command, resolve_device


def test_exit_statuses(capsys):
    def program(error):
        @command
        def main(argv=None):
            if error:
                raise error

        return main

    assert program(None)() == 0
    assert program(PilotError("what is wrong"))() == 2
    assert program(KeyboardInterrupt())() == 130
    assert capsys.readouterr().err == "error: what is wrong\ninterrupted\n"
    with pytest.raises(ZeroDivisionError):  # a defect of ours is not dressed up as bad input
        program(ZeroDivisionError())()


SLOW_IMPORT = """
import sys
def interrupt(event, arguments):
    if event == "import" and arguments[0] == "torch":
        raise KeyboardInterrupt
sys.addaudithook(interrupt)
"""


@pytest.mark.parametrize(
    ("start", "status"),
    [
        # runpy.run_module is what `python -m` does; the hook sees sys.argv[0] as it is then.
        ("sys.argv[0] = '-m'; import runpy; runpy.run_module('stages.train', run_name='__main__')", -signal.SIGINT),
        ("import stages; raise SystemExit(stages.train_pilot())", 130),
    ],
)
def test_ctrl_c_while_a_program_is_still_importing_is_said_in_a_word(start, status):
    done = subprocess.run([sys.executable, "-c", SLOW_IMPORT + start], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "interrupted\n")  # a shell says 130 for -SIGINT, too


def test_other_errors_while_importing_are_not_dressed_up():
    start = "sys.argv[0] = '-m'; import stages; raise ZeroDivisionError"
    done = subprocess.run([sys.executable, "-c", f"import sys; {start}"], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" in done.stderr


def test_importing_a_stage_changes_nothing_for_the_importer():
    code = "import sys; hook = sys.excepthook; import stages; assert sys.excepthook is hook is sys.__excepthook__"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_reader_that_stops_reading_is_no_error():
    code = "from pilot.runtime.cli import command; raise SystemExit(command(lambda _: print('line\\n' * 100000))(None))"
    reader = "import sys; sys.stdin.readline()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        subprocess.run([sys.executable, "-c", reader], stdin=writer.stdout, check=True)
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 1


def test_a_parsers_complaint_is_one_line(capsys):
    parser = Parser(prog="train-pilot")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--what"])
    assert capsys.readouterr().err == "train-pilot: error: unrecognized arguments: --what (see train-pilot --help)\n"


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "tpu", "mps", ""):
        with pytest.raises(PilotError, match=f"--device {name}: not a device"):
            resolve_device(name)
    with pytest.raises(PilotError, match="--device cuda:99: PyTorch finds"):
        resolve_device("cuda:99")
