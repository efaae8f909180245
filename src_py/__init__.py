"""Helpers shared by the recipes; one purpose a module."""
