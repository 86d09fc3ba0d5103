"""The commands, one room for each purpose. No logic: a command parses, calls one function, prints its value."""
