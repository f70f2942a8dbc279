"""What the hooks cost: `make bench` measures, prints a table, and writes docs/performance.md."""
