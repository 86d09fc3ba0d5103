"""`report`: one self-contained HTML page about a run. Nothing here is imported by another command."""
