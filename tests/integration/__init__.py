"""Tests of several parts together, against a real nats-server."""
