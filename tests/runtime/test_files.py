import math
import os
import subprocess
import sys

import pytest

from pilot.errors import PilotError
from pilot.runtime.files import read_json, read_text, remove_leftovers, write_bytes, write_json, write_text


def test_files_round_trip_with_unix_line_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text(path, "one\ntwo → three\n")
    assert path.read_bytes() == "one\ntwo → three\n".encode()
    assert read_text(path) == "one\ntwo → three\n"
    write_json(path, {"a": {"b": 1.5}})
    assert read_json(path, made_by="train") == {"a": {"b": 1.5}}


def test_floats_keep_six_digits(tmp_path):
    content = {"a": [2 / 3, {"b": -1.23456749e-30}], "c": (True, 12345678), "d": 0.1 + 0.2}
    write_json(tmp_path / "file.json", content)
    text = (tmp_path / "file.json").read_text()
    assert "".join(text.split()) == '{"a":[0.666667,{"b":-1.23457e-30}],"c":[true,12345678],"d":0.3}'


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"new": math.nan})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PilotError, match=r"file.json: cannot be written \(No space left on device\)"):
        write_bytes(path, b"new")
    assert read_json(path, made_by="train") == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_content_and_name_reach_the_disk_before_and_after_the_rename(tmp_path, monkeypatch):
    calls = []

    def recorded(name):
        original = getattr(os, name)

        def call(*arguments):
            folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{arguments[0]}")
            calls.append("fsync of the folder" if folder else name)
            return original(*arguments)

        monkeypatch.setattr(os, name, call)

    recorded("fsync")
    recorded("replace")
    write_bytes(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace", "fsync of the folder"]


def test_only_what_dead_writers_of_the_file_left_is_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    ours = {f".file.pt.{dead.stdout.strip()}.tmp", f".file.pt.{os.getpid()}.tmp"}
    others = {
        ".notes.backup.tmp",  # anybody's
        f".other.pt.{dead.stdout.strip()}.tmp",  # of another file
        ".file.pt.new.tmp",
        f".file.pt.{os.getppid()}.tmp",  # of a writer that runs
        "file.pt",
    }
    for name in ours | others:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "file.pt")
    assert {path.name for path in tmp_path.iterdir()} == others


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; the stage that makes it: dvc repro train"),
        (b"{", "1: not JSON"),
        (b"[1]", "not a JSON object; make it again: dvc repro -f train"),
        (b"\xff", "not UTF-8 text"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PilotError, match=message) as error:
        read_json(path, made_by="train")
    assert str(error.value).startswith(str(path))


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(PilotError, match="cannot be read"):
        read_text(tmp_path)
