"""What is written for people: files that appear whole or not at all, panels of pictures."""
