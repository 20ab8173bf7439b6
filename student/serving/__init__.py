"""The policy server: it drives with a student, over a socket."""
