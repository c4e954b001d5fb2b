"""This machine: memory, disks, files, work in threads, installed packages."""
