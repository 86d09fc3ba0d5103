"""The store of a run, a SQLite file, and what is read from it."""
