"""Changes of rewards before credit is given: one file each."""
