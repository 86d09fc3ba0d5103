"""The SQLite file that is the only truth of a run, and what is read from it."""
