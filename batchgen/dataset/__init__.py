"""Seeds in, dialogues out: preparing, round files, exports and checks."""
