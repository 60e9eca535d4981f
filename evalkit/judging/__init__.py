"""From scores to verdicts. Pure."""
