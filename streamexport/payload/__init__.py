"""Bytes that exist and bytes to come: pieces of known length, the tensors in them, what is computed from these."""
