"""What a picture costs in the cloud, told to those who count what was not bought. Pure numbers.

For figures only: what a call really costs, its provider says.
"""

from collections.abc import Mapping, Sequence

from agent.engines.cloud import prices
from agent.engines.cloud.stability import CORE, ULTRA
from contracts.requests import Quality


def reference_usd(
    order: Sequence[str], stability_high_model: str, openai_model: str
) -> Mapping[str, float]:
    """Return the price of one picture by quality, at the cloud that would be tried first.

    Units: US dollars for 1024 x 1024 pixels.
    """
    if order[:1] == ("openai",):
        return {
            quality.value: prices.openai_estimate_usd(openai_model, quality, prices.PIXELS, 0)
            for quality in Quality
        }
    models = {Quality.HIGH: stability_high_model, Quality.PREMIUM: ULTRA}
    return {quality.value: prices.stability_usd(models.get(quality, CORE)) for quality in Quality}
