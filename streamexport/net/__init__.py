"""A net as plain values, whatever it came from and whatever it becomes: layers, and what each of them computes."""
