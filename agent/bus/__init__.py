"""JetStream as mmg uses it: connection, streams, lanes, chain, snapshot.

The only package that speaks to nats-server. It decides nothing about a request.
"""
