"""The dashboard: a small server on this machine, and pages that read the runs of a folder while they are written."""
