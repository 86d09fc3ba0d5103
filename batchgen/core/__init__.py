"""Values and pure functions: dialogues, outcomes, prompts, tokens, prices. No disk, no network, no clock."""
