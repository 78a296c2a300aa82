"""What the models of all back ends have in common."""
