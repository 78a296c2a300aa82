"""Stored weights expanded into what kernels read: numpy only, when a library is loaded."""
