"""What a run has measured, as data: `result.json`, statistics over seeds, tables, and numbers as text.

Imports `runtime` alone.
"""
