"""Graphics processors: the kernels as OpenCL, CUDA and Metal source with thread bindings, and a runner for them.

A network for such a target is a list of launches (kernel, grid, buffers) in the artifact's metadata beside the source,
or the compiled code, of the kernels. :mod:`.runtime` carries it out; what differs between OpenCL and CUDA is a thin
device layer (:mod:`.devices.opencl`, :mod:`.devices.cuda`). Layouts, constants and epilogues are those of the CPU
kernels.
"""
