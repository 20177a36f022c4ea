"""Saved rollouts judged again."""
