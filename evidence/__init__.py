"""What is behind the tables of docs/: scripts, grids, archives, speed. Run from a checkout; no part of the wheel."""
