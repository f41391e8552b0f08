/** A Vitest reporter that prints one line after everything else: "812 passed, 0 failed, 3 skipped". */
import type { Reporter, TestModule } from "vitest/node";

export class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const states = modules.flatMap((module) =>
      [...module.children.allTests()].map((test) => test.result().state),
    );
    const count = (wanted: string): number => states.filter((state) => state === wanted).length;
    const broken = modules.filter((module) => module.errors().length > 0).length; // files that did not load
    const line = `${count("passed")} passed, ${count("failed") + broken} failed, ${count("skipped")} skipped`;
    process.once("exit", () => console.log(line));
  }
}
