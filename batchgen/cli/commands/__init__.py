"""The commands, one module for each purpose. A command parses, calls one function and prints its value."""
