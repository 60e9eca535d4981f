"""Where jobs run. An executor performs tasks and yields their outcomes; only the driver records."""
