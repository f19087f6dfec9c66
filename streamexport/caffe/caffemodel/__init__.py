"""Binary caffemodels: what stands in one (`writing`), and what others write (`reading`)."""
