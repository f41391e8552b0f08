/** How commands and ranks are stopped, and how they end, as shells, launchers and schedulers see them. */

/** Exit code of a rank that ends because another one has failed (EX_TEMPFAIL): starting anew may help. */
export const EXIT_PEER_LOST = 75;

/** Exit code of a command that was interrupted, as shells count: 128 plus the number of SIGINT. */
export const EXIT_INTERRUPTED = 130;

/**
 * A signal this soon after the first is a copy of it: shells pass on a hang-up, and npx a Ctrl-C from the
 * terminal.
 */
export const SAME_SIGNAL_MS = 500;

/** Signals that stop a command. */
export const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
