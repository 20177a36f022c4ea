"""The vocabulary of the system: types that cross files and sockets. Imports no torch."""
