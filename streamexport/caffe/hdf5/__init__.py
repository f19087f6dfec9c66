"""HDF5 models: what stands in one (`writing`), and how foreign ones are read (`reading`, `worker`, `chunks`)."""
