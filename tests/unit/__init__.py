"""Tests of one part at a time, without a bus or a peer."""
