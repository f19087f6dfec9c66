"""Many machines, by Dask: workers render ranges of a layout, each by itself; what appears where is said by `transfer`."""
