"""One module per view: each has a `router`, which the application finds by itself."""
