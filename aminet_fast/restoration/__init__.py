"""Faces of 16x16 in, 128x128 out."""
