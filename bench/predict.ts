/**
 * How long the planner says that a step takes on this CPU, beside what it takes: `predict.js [NAME ...]`, by configuration and by class of
 * op, the largest misses first. The processor's time is shown beside the clock's, for other programs change it less; classes are in it
 * unless --clock wallMs is given, as on an idle machine. --sizes: classes by size; --rows N: of classes; --base-folder, --tiny-folder: checkpoints, the first by default the one that bench/cpu.js writes.
 */
import "./watchCalls.ts"; // before whatever calls operators is loaded

await import("./predictCases.ts");
