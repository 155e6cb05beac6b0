"""What goes wrong in hours of training, and what becomes of it."""
