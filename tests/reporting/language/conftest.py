import pytest
from support.language_cases import write_language_metrics

from pilot.reporting.language.results import TaskResults, read_results


@pytest.fixture
def results(tmp_path) -> TaskResults:
    """Made-up results of 3 layers of 3 heads; L2H2, L2H0 and L1H1 are the players, and recover 0.4, 0.28 and -0.196."""
    write_language_metrics(tmp_path)
    return read_results(tmp_path)


@pytest.fixture
def null_results(tmp_path) -> TaskResults:
    """The same, where no head does anything."""
    write_language_metrics(tmp_path / "null", null=True)
    return read_results(tmp_path / "null")
