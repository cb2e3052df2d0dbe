"""Programs that the demo and the tutorials run."""
