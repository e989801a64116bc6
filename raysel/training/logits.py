"""How many logits are made at once: known without torch, so that memory can be planned."""

LOGITS_AT_ONCE = 1 << 26  # in float32 256 MiB, and as much again for their gradient


def logit_parts(tokens: int, vocabulary: int) -> int:
    """In how many parts the logits of at most `tokens` tokens are made: the same in every forward and on every worker.

    Under ZeRO-3 the workers gather the head's weights together, once for each part.
    """
    return -(-tokens * vocabulary // LOGITS_AT_ONCE)
