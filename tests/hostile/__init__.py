"""What somebody might give kdzoo, one file a kind, one line a case; `tests/test_hostile.py` tries them all.

A line more is a case more: nothing else need be touched.
"""
