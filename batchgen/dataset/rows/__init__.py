"""Rows of seed files: how they are read from a file, and where their three texts are."""
