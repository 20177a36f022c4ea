"""Objective terms, one file each, registered by name."""
