"""A page in the browser for one photograph at a time (``aminet web``)."""
