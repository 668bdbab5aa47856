"""From logits to tokens: weights, cache slots, the loop over blocks, sampling, generation, conversations."""
