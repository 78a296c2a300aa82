"""TIR templates, one kernel a file.

Every file has a frozen ``Spec`` (all that the code depends on; equal specs share one function), ``emit(spec)`` (the
PrimFunc) and, where a kernel reads more than stored arrays, a numpy recipe that expands them when a library is
loaded.
"""
