"""Flags: their values, the command they become, and the points of a sweep."""
