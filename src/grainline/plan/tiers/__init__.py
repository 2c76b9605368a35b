"""Memory tiers: what is paged in when, over a known order of operators, and what a shared memory is worth."""
