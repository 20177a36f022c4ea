"""From samples to trajectories: generators, the conversation loop, and engines that sample tokens."""
