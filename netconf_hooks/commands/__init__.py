"""The commands of ``netconf-hooks``: one module for each, with the function that the parser calls."""
