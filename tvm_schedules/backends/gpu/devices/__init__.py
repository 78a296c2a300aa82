"""Device layers: the few functions that a graphics processor's runtime needs."""
