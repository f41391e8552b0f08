import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { COMMAND_OPTIONS } from "./cli/args/commandOptions.ts";
import { programOf } from "./program.ts";

// biome-ignore format: columns line up
it.each([
  // how it was started, its script, where, its environment, how to start it again
  ["by a bundle's launcher",            "/b/dist/cli/main.js",                   "/b",                { LORAFIT_PROGRAM: "./lorafit" },            "./lorafit"],
  ["by one in a folder with spaces",    "/my b/dist/cli/main.js",                "/",                 { LORAFIT_PROGRAM: "/my b/lorafit" },        "'/my b/lorafit'"],
  ["by npx",                            "/p/node_modules/.bin/lorafit",          "/p",                { npm_command: "exec", PATH: "/p/node_modules/.bin" }, "npx lorafit"],
  ["by the link in a project below",    "/p/node_modules/.bin/lorafit",          "/p/data",           { PATH: "/bin" },                            "npx lorafit"],
  ["by the link in another project",    "/p/node_modules/.bin/lorafit",          "/q",                { PATH: "/bin" },                            "/p/node_modules/.bin/lorafit"],
  ["as installed for all projects",     "/usr/local/bin/lorafit",                "/q",                { PATH: "/bin:/usr/local/bin" },             "lorafit"],
  ["in a clone",                        "/c/dist/cli/main.js",                   "/c",                {},                                          "npx lorafit"],
  ["from a clone in another folder",    "/c/dist/cli/main.js",                   "/cc",               {},                                          "node /c/dist/cli/main.js"],
  ["from a program that imports it",    "/q/mine.js",                            "/q",                {},                                          "npx lorafit"],
] as const)("started %s, it is started again in the same way", (_, script, folder, environment, expected) => {
  expect(programOf({ environment, script, folder })).toBe(expected);
});

it("no message names a command but through commandLine", () => {
  const root = fileURLToPath(new URL(".", import.meta.url));
  const files = readdirSync(root, { recursive: true, encoding: "utf8" });
  const sources = files.filter(
    (name) => name.endsWith(".ts") && !name.endsWith(".test.ts") && name !== "program.ts",
  );
  expect(sources.length).toBeGreaterThan(150);
  const commands = Object.keys(COMMAND_OPTIONS).join("|");
  const named = new RegExp(`npx lorafit|(?:Run|with|it):? +\`?lorafit (?:${commands})\\b`);
  for (const name of sources) {
    const code = readFileSync(join(root, name), "utf8").replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
    expect(named.exec(code)?.[0], name).toBeUndefined();
  }
});
