"""The engines of the clouds: Stability AI and OpenAI, over plain HTTP.

Providers are pure: they write calls and read answers. One engine sends each call once and counts
what it costs. Budgets and breakers are for who runs the job: nothing here knows them.
"""

from agent.engines.cloud.engine import CloudEngine
from agent.engines.cloud.openai import OpenAISettings, openai_engine
from agent.engines.cloud.stability import StabilitySettings, stability_engine

__all__ = [
    "CloudEngine",
    "OpenAISettings",
    "StabilitySettings",
    "openai_engine",
    "stability_engine",
]
