"""Goal: what staying local has saved is counted at the prices of the cloud that would be tried.

Method: the order of the clouds in, a price for each quality out, against the providers' own tables.
"""

import pytest

from agent.engines.cloud.openai import MODEL
from agent.engines.cloud.reference import reference_usd
from contracts.requests import Quality


@pytest.mark.parametrize("order", [("stability", "openai"), ("stability",), ()])
def test_stability_is_counted_by_the_model_of_each_quality(order):
    assert reference_usd(order, "sd3.5-large", MODEL) == {
        "draft": 0.03,
        "standard": 0.03,
        "high": 0.065,
        "premium": 0.08,
    }


def test_openai_is_counted_where_it_comes_first():
    prices = reference_usd(("openai", "stability"), "sd3.5-large", "gpt-image-1-mini")
    assert prices == {"draft": 0.005, "standard": 0.011, "high": 0.036, "premium": 0.036}
    assert set(prices) == {quality.value for quality in Quality}
