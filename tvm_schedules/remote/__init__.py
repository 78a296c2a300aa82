"""Measuring on a board over the network."""
