"""What a run needs of the process and the machine it runs on."""
