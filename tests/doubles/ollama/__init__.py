"""A double of Ollama: a real server whose models claim memory on the shared simulated card.

Made after ollama/ollama at fb30760 (2026-08-21, v0.33): server/routes.go, server/sched.go. What a
test relies on is shown by name in tests/integration/test_ollama_double.py. It runs no model.
"""

from tests.doubles.ollama.server import OllamaDouble
from tests.doubles.ollama.settings import Model, Settings

__all__ = ["Model", "OllamaDouble", "Settings"]
