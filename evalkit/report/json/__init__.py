"""A run as JSON, and its schema."""
