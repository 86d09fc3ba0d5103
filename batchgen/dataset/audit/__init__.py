"""What the judge said of finished turns: the verdicts of the store, `data/audit.jsonl`, and the figures."""
