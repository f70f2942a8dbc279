"""What runs in a machine with Debian's own kernel (`tests.lab.vm`), and the test that runs it there."""
