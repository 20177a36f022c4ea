"""Advantages, objectives and filters: pure tensor functions over decisions, without I/O."""
