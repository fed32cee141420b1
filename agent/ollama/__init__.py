"""Ollama: a tenant of the card, and the language model that extends prompts if asked to.

Source: ollama/ollama at fb30760 (2026-08-21, v0.33).
"""

from agent.ollama.client import Health, Ollama
from agent.ollama.enhancing import Enhancer

__all__ = ["Enhancer", "Health", "Ollama"]
