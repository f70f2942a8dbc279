"""What the admin wrote: ifupdown's environment, the options of stanzas, the values of tests, the files."""
