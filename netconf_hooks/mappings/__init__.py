"""Scripts that choose the logical interface: mapping in interfaces(5)."""
