"""What people and programs use: the HTTP server, the command line, and the library."""
