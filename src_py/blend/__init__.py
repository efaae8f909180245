"""Everything that was trained, in one submission: members, their weights, and what they predict."""
