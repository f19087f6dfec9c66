"""Who computes a net: our own `forward`, other engines, and torch's own module as their `reference`."""
