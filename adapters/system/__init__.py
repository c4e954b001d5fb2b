"""Memory, threads and installed packages of this machine."""
