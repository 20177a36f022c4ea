"""The toys and runs of benchmarks/proofs.py, one file per family."""
