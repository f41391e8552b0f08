/** Finds the terminal of a rank whose stderr is a pipe through lorafit's own launcher. */

/** Columns of the launcher's terminal. */
const COLUMNS = "LORAFIT_TERMINAL_COLUMNS";

interface Terminal {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

/** Returns stderr; as the launcher's terminal if that is where it ends. */
export function stderrOf({ stderr, env }: { stderr: Terminal; env: NodeJS.ProcessEnv }): Terminal {
  const columns = Number(env[COLUMNS]);
  if (!columns) return stderr;
  return { write: (text) => stderr.write(text), isTTY: true, columns };
}

/** Returns the variable by which stderrOf knows the terminal; none if there is no terminal. */
export function terminalVariables({ isTTY, columns }: Omit<Terminal, "write">): Record<string, string> {
  return isTTY ? { [COLUMNS]: `${columns || 80}` } : {};
}
