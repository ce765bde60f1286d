"""Object stores, by way of fsspec, as the storage of Ion."""
