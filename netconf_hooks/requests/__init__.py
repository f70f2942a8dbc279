"""Commands without root, by polkit: the program that pkexec runs, and the one that its unit runs."""
