/** Exit codes of ranks, as launchers and schedulers see them. */

/** Exit code of a rank that ends because another one has failed (EX_TEMPFAIL): starting anew may help. */
export const EXIT_PEER_LOST = 75;
