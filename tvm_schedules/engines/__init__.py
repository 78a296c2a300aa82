"""Engines that run a network, each in a process of its own, and the state of the machine that they run on."""
