"""What training, export and benchmark of a network gave, as one page that people share."""
