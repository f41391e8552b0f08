import { expect, it } from "vitest";
import { programOf } from "./program.ts";

// biome-ignore format: columns line up
it.each([
  // how it was started                 its script                               where                environment                                  how to start it again
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
