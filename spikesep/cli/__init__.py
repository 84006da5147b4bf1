"""Commands: one thin file each, which parses options, calls the package and prints."""
