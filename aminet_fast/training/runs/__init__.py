"""The run folder: what is in it, what a run starts from, and what it writes."""
