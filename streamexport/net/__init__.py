"""A net as plain values, whatever it came from and whatever it becomes: layers, what each of them computes, the shapes that
follow, and which tensors of a checkpoint are a net's."""
