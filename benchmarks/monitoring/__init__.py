"""What benchmarks/monitor.py measures, a file for each kind."""
