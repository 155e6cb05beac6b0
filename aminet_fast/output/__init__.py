"""Files that appear whole or not at all, and the message that names a missing extra."""
