"""Doubles of Stability AI and OpenAI: real HTTP, real PNGs, a ledger of what they charged."""

from tests.doubles.clouds.openai import OpenAIDouble
from tests.doubles.clouds.server import Charge, CloudDouble
from tests.doubles.clouds.stability import StabilityDouble

__all__ = ["Charge", "CloudDouble", "OpenAIDouble", "StabilityDouble"]
