"""Stands in for the engine in the agent's tests: speaks its frames, and does what the plan says instead of a query."""
