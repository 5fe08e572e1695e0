"""Frames between processes: one seam, two implementations."""
