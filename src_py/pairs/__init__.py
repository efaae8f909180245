"""The contest and its text: which files, which columns, which rows to hold out, how a pair becomes tokens."""
