"""Figures of docs/ as files of their own."""
