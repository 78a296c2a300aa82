"""Do the tests notice? Changes one operator or constant of a source file at a time and runs tests that come by there.

``make mutants`` or ``python -m tests.mutants --count 5 --seed 1 tern_lightning/functional``. Everything runs in a copy
of the repository. Which tests come by which function is measured once (:mod:`.touch`), kept in a file, and measured
again for a test file that has changed. Where files are named, the tests are those of their folders and those called
like them; with ``--tests tests`` changes meet all the others too, which takes long to measure. A change that survives
shows a line that no test depends on, or makes no difference: those are in ``explained.txt``, with the reason.
"""
