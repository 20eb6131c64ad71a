"""The process that opens a Polars plan and runs it with open-source Polars (`python -u -m frazil_engine`)."""

__version__ = "0.1.0"
