"""Settings, log, files, clock, threads and processes."""
