"""The protocol searched: real generators in small worlds of which every state is visited."""
