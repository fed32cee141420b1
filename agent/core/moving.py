"""A moving mean of what was measured, and of how far each measurement was off. Pure."""

import msgspec


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """What is known after `runs` measurements; nothing after none. Units: of what is measured."""

    runs: int = 0
    mean: float = 0.0
    error: float = 0.0

    def after(self, value: float, weight: float) -> "Mean":
        """Return the mean with one more measurement, of `weight`; the first ones count in full."""
        if not self.runs:
            return Mean(runs=1, mean=value, error=value / 2)
        weight = max(weight, 1 / (self.runs + 1))
        off = abs(value - self.mean)
        return Mean(
            runs=self.runs + 1,
            mean=self.mean + weight * (value - self.mean),
            error=self.error + weight * (off - self.error),
        )
