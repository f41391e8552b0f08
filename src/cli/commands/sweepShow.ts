/** `lorafit sweep show`: prints the table of a sweep, finished or not. */
import { sweepNow } from "../../sweep/show.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import type { Output } from "../output/output.ts";
import { endLines } from "../sweep/sweepReport.ts";
import { tableCsv, tableText } from "../sweep/tableText.ts";

export async function run({ folder, csv }: OptionsOf<"sweep show">, output: Output): Promise<void> {
  const { table, isRunning } = await sweepNow(folder);
  for (const trial of table.trials) output.record(trial);
  output.answer(csv ? tableCsv(table) : tableText(table));
  if (csv) return;
  if (!table.isDone)
    output.note(
      isRunning ? "the sweep is running" : "the sweep was stopped; the same lorafit sweep continues it",
    );
  for (const line of endLines(table, folder)) output.note(line);
}
