"""Thin shells that join the pure cores to sockets, files, processes and clocks."""
