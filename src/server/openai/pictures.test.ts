import { mkdirSync, mkdtempSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { picturesOf } from "./pictures.ts";

const root = realpathSync(mkdtempSync(join(tmpdir(), "pictures-")));
const folder = join(root, "shown");
mkdirSync(folder);
writeFileSync(join(folder, "a page.png"), "picture");
writeFileSync(join(root, "secret.png"), "secret");
symlinkSync(join(root, "secret.png"), join(folder, "link.png"));
symlinkSync(root, join(folder, "up"));

const never = new AbortController().signal;
const files = (url: string): Promise<string[]> => picturesOf([url], { folder, allowRemote: false }, never);

describe("picturesOf", () => {
  it("passes data URLs on", async () => {
    const url = "data:image/png;base64,AA==";
    expect(await picturesOf([url], { folder: undefined, allowRemote: false }, never)).toEqual([url]);
  });

  it.each([
    ["a path", "a page.png"],
    ["an absolute path", join(folder, "a page.png")],
    ["a file URL", pathToFileURL(join(folder, "a page.png")).href],
  ])("reads %s below the folder", async (_, url) => {
    expect(await files(url)).toEqual([join(folder, "a page.png")]);
  });

  it.each([
    "../secret.png",
    join(root, "secret.png"),
    "link.png",
    "up/secret.png",
    ".",
    "missing.png",
    "a page.png\0.txt",
    "file://host/a.png",
    "file:///%2e%2e/secret.png",
    "/etc/passwd",
  ])("refuses %s without saying whether it exists", async (url) => {
    await expect(files(url)).rejects.toMatchObject({
      status: 400,
      code: "invalid_image_url",
      message: expect.stringMatching(/is not a file below the server's picture folder\.$/),
    });
  });

  it("refuses files without a folder, and remote pictures unless allowed", async () => {
    const rules = { folder: undefined, allowRemote: false };
    await expect(picturesOf(["a page.png"], rules, never)).rejects.toThrow(/--picture-folder/);
    await expect(picturesOf(["http://127.0.0.1/a.png"], rules, never)).rejects.toThrow(
      /--allow-remote-images/,
    );
  });

  it("downloads remote pictures if allowed, and says what a server answered", async () => {
    const server = createServer((request, response) => {
      response.statusCode = request.url === "/a.png" ? 200 : 404;
      response.end("picture");
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const rules = { folder: undefined, allowRemote: true };
    const encoded = `data:;base64,${Buffer.from("picture").toString("base64")}`;
    expect(await picturesOf([`${base}/a.png`], rules, never)).toEqual([encoded]);
    await expect(picturesOf([`${base}/b.png`], rules, never)).rejects.toThrow(/answered 404/);
    server.close();
  });
});
