import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { cliDocs } from "../../scripts/cliDocs.ts";
import { configSchema } from "../../scripts/configSchema.ts";
import { stepChart } from "../../scripts/stepChart.ts";

const at = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

// `make docs` writes them anew
it("schemas/train.schema.json says what the options say", async () => {
  await expect(configSchema()).toMatchFileSnapshot(at("schemas/train.schema.json"));
});

it("docs/cli.md says what the options say", async () => {
  await expect(cliDocs()).toMatchFileSnapshot(at("docs/cli.md"));
});

it("docs/step-memory.svg is drawn from the plan", async () => {
  await expect(stepChart()).toMatchFileSnapshot(at("docs/step-memory.svg"));
});
