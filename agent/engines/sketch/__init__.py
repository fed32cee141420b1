"""The embedded `sketch` engine: seeded covers, diagrams and infographics set in type.

No model, no GPU, no network; the same job and seed give the same bytes on one machine.
It must not pretend: what it makes is called `sketch`, and no number is drawn that the prompt
does not hold.

Scripts: Latin, Greek and Cyrillic (Inter, Noto Serif Display); Arabic, Hebrew, Armenian, Georgian,
symbols and mathematics (DejaVu Sans); Devanagari and Thai (Noto Sans). Chinese, Japanese and Korean
are set in a font of the machine if a known one is installed. A character that no font has, emoji
included, becomes a soft bar of its width.
"""

from agent.engines.sketch.engine import SketchEngine

__all__ = ["SketchEngine"]
