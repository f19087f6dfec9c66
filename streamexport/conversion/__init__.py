"""From checkpoints to files: options, the plan that follows from them, where it goes, and who can run what is written."""
