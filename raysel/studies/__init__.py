"""The papers' questions, asked anew: what they published, what was measured here, and how the two compare."""
