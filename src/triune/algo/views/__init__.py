"""Further passes over what was sampled: one file per kind of view."""
