"""Benchmarks: each prints figures beside a floor or peer of the same run. Never a test."""
