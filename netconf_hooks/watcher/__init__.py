"""The process that listens to the kernel's events and acts on them."""
