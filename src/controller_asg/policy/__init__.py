"""One file a policy type, each a pure function from what was seen to a vote; and their combination."""
