"""HDF5 models: what stands in one (`writing`), and how foreign ones are read (`reading`, `worker`, `chunks`).

The attributes that are ours: Caffe looks at none of them. `worker`, which imports nothing, asks for the same.
"""

RECORD, SOURCES = "streamexport", "streamexport_sources"
"""Of the root: how the file was made, and what it is linked to."""
TYPE, POSITION = "type", "position"
"""Of a layer's group."""
