"""Doubles of the peers: real programs that behave as the real ones were seen to behave."""
