"""Whether a model is what its checkpoint makes: its bytes (`verify`), and what it computes (`parity`)."""
