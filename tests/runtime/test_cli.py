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


def test_ctrl_c_while_a_program_is_still_importing_is_said_in_a_word():
    def run(error: str) -> subprocess.CompletedProcess:
        code = f"import stages; raise {error}"
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    interrupted = run("KeyboardInterrupt")
    assert (interrupted.returncode, interrupted.stderr) == (-signal.SIGINT, "interrupted\n")  # 130 in a shell
    assert "Traceback" in run("ZeroDivisionError").stderr


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
