"""Layers, masks and quantizers of layer inputs: what is put into a module."""
