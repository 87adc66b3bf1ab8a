import platform

from pilot.reporting.provenance import data_hashes, versions


def test_versions_name_python_and_the_plotting_libraries():
    found = versions()
    assert found["Python"] == platform.python_version()
    assert {"torch", "plotly", "matplotlib", "system"} <= found.keys()


def test_hashes_are_those_of_the_files(tmp_path):
    (tmp_path / "pilot_val.jsonl").write_bytes(b"abc")
    known = "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, appendix A.5
    assert data_hashes(tmp_path) == {"pilot_val.jsonl": known}


def test_without_data_files_there_are_no_hashes(tmp_path):
    assert data_hashes(tmp_path / "data") == {}
