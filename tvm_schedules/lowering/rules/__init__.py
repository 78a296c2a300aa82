"""Which layers the kernels take that several back ends have, and how they are called: ``Spec`` and ``lower``."""
