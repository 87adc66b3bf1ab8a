import pytest
from support.report_cases import write_metrics

from pilot.reporting.measurements import Measurements, read_measurements


@pytest.fixture
def measured(tmp_path) -> Measurements:
    """Made-up measurements of 2 layers of 2 heads, L0H1 and L1H1 selected; heads recover 1, 5, 0.8 and 5 in 11.8."""
    write_metrics(tmp_path)
    return read_measurements(tmp_path)
