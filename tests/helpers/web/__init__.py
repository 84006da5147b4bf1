"""A browser, a server and a hub for tests."""
