/** Lengths that the table of sizes has. */
export const MAX_LENGTHS = [2048, 4096, 8192, 16384, 32768];
