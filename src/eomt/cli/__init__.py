"""The command line: argument types and one call each."""
