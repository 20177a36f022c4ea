"""Every number per source, task and component, next to the rollouts and pictures that made it."""
