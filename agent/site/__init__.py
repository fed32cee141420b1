"""Keys, certificates and the configuration of nats-server for a site that is not one laptop.

`mmg key` makes them; `agent.bus.login` uses them. It must not talk to a server.
"""
