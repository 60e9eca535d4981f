"""A run as Markdown, for pull requests."""
