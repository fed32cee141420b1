"""Engines make pictures; each speaks `agent.engines.protocol.Engine`."""
