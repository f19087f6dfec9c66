"""From checkpoints to files: options, the plan that follows from them, and who can run what is written."""
