"""Quality flags of finished turns."""
