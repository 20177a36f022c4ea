"""Changes of credit: masks, importance weights, gates. One file per family."""
