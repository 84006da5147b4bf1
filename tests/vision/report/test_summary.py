import pytest

from spikesep.vision.report.summary import label
from spikesep.vision.runs import Run


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("convert.qat_bits", 0, "float32"),
        ("convert.fan_in", 0, "none"),
        ("convert.synops_weight", 0.0, "0"),
        ("convert.deferred", False, "False"),
        ("convert.n_steps", 16, "16"),
    ],
)
def test_values_of_a_setting_are_labelled(setting, value, text):
    assert label(Run("vgg11", 0, setting, value)) == text
