"""Tests of mmg; doubles of its peers can be run alone, as `python -m tests.doubles`."""
