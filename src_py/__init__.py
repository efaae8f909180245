"""Helpers of the notebooks, in rooms that stand in one order: a module imports from its own room and lower ones."""

__version__ = "0.1.0"
