"""Any PyTorch module as a net: its graph, node by node, and what becomes of each operator."""
