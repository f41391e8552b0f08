/**
 * A real browser for tests of the page: Chromium of the distribution, driven through playwright-core. Each
 * opened page collects what goes wrong in it, and axe-core looks for faults that keep people out.
 *
 *     const ui = await startUi(folder);
 *     const { page, faults } = await openPage(ui.url, { theme: "dark", phone: true });
 *     await page.getByRole("heading", { name: "Runs" }).waitFor();
 *     expect(await axeFaults(page)).toEqual([]);
 *     expect(faults).toEqual([]);
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll } from "vitest";
import { PROGRAM } from "../e2e/lorafit.ts";

/** Generous: the machine may be busy. Tests wait for events, so it passes only when something is broken. */
export const PATIENCE_MS = 120_000;

export interface OpenedPage {
  page: Page;
  /** Console errors, uncaught errors, blocked and failed requests, as they happen. */
  faults: string[];
}

export interface PageOptions {
  theme?: "light" | "dark";
  /** A narrow screen with touch. */
  phone?: boolean;
  /** Faults that the test causes on purpose, for example by stopping the server. */
  expected?: RegExp;
}

let browser: Promise<Browser> | undefined;

/** Opens an address with no cookies and nothing stored. The page is closed after the file's tests. */
export async function openPage(url: string, options: PageOptions = {}): Promise<OpenedPage> {
  const { theme = "light", phone = false, expected } = options;
  browser ??= launch();
  const context = await (await browser).newContext({
    colorScheme: theme,
    reducedMotion: "reduce",
    viewport: phone ? { width: 390, height: 844 } : { width: 1360, height: 900 },
    ...(phone && { hasTouch: true, isMobile: true, deviceScaleFactor: 2 }),
  });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const faults: string[] = [];
  const note = (fault: string): void => {
    if (!expected?.test(fault)) faults.push(fault);
  };
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") note(message.text());
  });
  page.on("pageerror", (error) => note(error.stack ?? error.message));
  page.on("requestfailed", (request) => {
    const reason = request.failure()?.errorText ?? "";
    if (reason !== "net::ERR_ABORTED") note(`${request.method()} ${request.url()}: ${reason}`); // closed by the page
  });
  await page.goto(url);
  await page.waitForURL(({ searchParams }) => !searchParams.has("token")); // it leads on to the page itself
  return { page, faults };
}

async function launch(): Promise<Browser> {
  const executablePath = process.env.LORAFIT_CHROMIUM ?? "/usr/bin/chromium";
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : []; // Chromium refuses to sandbox root
  return chromium.launch({ executablePath, args });
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface AxeResult {
  violations: {
    id: string;
    impact: string | null;
    help: string;
    nodes: { html: string; target: unknown }[];
  }[];
}

/**
 * Returns the serious and critical faults that axe-core finds in the page as it is, one line each. It is
 * evaluated by the debugger, so that the page's CSP holds while it runs.
 */
export async function axeFaults(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  const { violations } = (await page.evaluate("axe.run(document)")) as AxeResult;
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, impact, help, nodes }) =>
      nodes.map(
        ({ html, target }) => `${impact} ${id}: ${help}: ${JSON.stringify(target)} ${html.slice(0, 200)}`,
      ),
    );
}

export interface Ui {
  /** Address to open, with its token. */
  url: string;
  /** Address of the server without the token. */
  origin: string;
  token: string;
  port: number;
  child: ChildProcess;
  /** Asks it to end and waits until it has. */
  stop(): Promise<void>;
}

/** Starts `lorafit ui FOLDER` and waits until it listens. It is stopped after the file's tests. */
export async function startUi(folder: string, args: readonly string[] = []): Promise<Ui> {
  const all = ["ui", folder, "--json", ...(args.includes("--port") ? [] : ["--port", "0"]), ...args];
  const child = spawn(process.execPath, [PROGRAM, ...all], { stdio: ["ignore", "pipe", "pipe"] });
  let told = "";
  child.stderr.on("data", (text: Buffer) => {
    told += text.toString();
  });
  const exit = once(child, "exit");
  const line = await Promise.race([
    once(createInterface(child.stdout), "line").then(([text]) => String(text)),
    exit.then(([code]) => {
      throw new Error(`lorafit ui ended with ${code}: ${told}`);
    }),
  ]);
  const { url, token } = JSON.parse(line) as { url: string; token: string };
  const address = new URL(url);
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGTERM");
    await exit;
  };
  stops.push(stop);
  const opened = address.searchParams.has("token") ? url : `${address.origin}/?token=${token}`;
  return { url: opened, origin: address.origin, token, port: Number(address.port), child, stop };
}

const stops: (() => Promise<void>)[] = [];

afterAll(async () => {
  await (await browser)?.close(); // before the servers, which its pages still ask
  browser = undefined;
  await Promise.all(stops.map((stop) => stop()));
});
