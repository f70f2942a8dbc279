"""The process that hears the kernel's news, and what it does about them."""
