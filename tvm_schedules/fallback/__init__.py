"""Operators without a kernel of their own: through TVM's front end, as functions over raw pointers."""
