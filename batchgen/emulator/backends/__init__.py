"""What writes the texts of the local service, and how it is kept busy."""
