"""The network between front end and back ends: graph, memory layouts, ternary tensors and their stored form."""
