"""From a graph to steps with memory: what all back ends share."""
