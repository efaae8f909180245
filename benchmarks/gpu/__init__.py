"""`make gpu`: everything about this project that only a GPU can show, in at most ten minutes.

Each check is a generator of rows that takes a `Scale`. The runner gives it a time limit and goes on when it fails.
"""
