/**
 * Prints predicted beside measured times of a step on this CPU: `predict.js [NAME ...]`, by configuration and
 * by class of operator, the largest misses first.
 *
 * Processor time stands beside the clock's, because other programs change it less. Classes are in processor
 * time unless --clock wallMs is given (for an idle machine). --sizes splits classes by size, --rows N limits
 * their number. --base-folder and --tiny-folder name checkpoints; the default of the first is the one that
 * bench/cpu.js writes.
 */
import "./watchCalls.ts"; // before whatever calls operators is loaded

await import("./predictCases.ts");
