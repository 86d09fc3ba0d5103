"""The machine: settings, log, files, clock, threads, memory."""
