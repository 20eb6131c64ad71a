import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { openApi } from "./api.ts";
import { CliError, usageError } from "./cli-error.ts";
import { checkAddress, checkToken, writeSettings } from "./config.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { openTransport } from "./http.ts";
import type { Io } from "./io.ts";
import type { Session } from "./session.ts";
import { CLI_VERSION } from "./version.ts";

/** Checks an address and a token against the server, and only then keeps them. */
export async function login(session: Session, word: string | undefined): Promise<ExitCode> {
  const { io, given } = session;
  const address = word ?? given.address ?? io.env.FRAZIL_ADDRESS;
  if (!address) throw usageError("there is no address to log in to", "give it: `pc login https://frazil.example.com`");
  const checked = checkAddress(address);
  const token = given.token === undefined ? await readToken(io) : checkToken(given.token, "--token");
  const settings = { address: checked, token, source: "login" };
  const me = await openApi(openTransport(settings, `frazil-cli/${CLI_VERSION}`)).me();
  const path = writeSettings(io.env, { address: settings.address, token: settings.token });
  const overriding = ["FRAZIL_ADDRESS", "FRAZIL_TOKEN"].filter((name) => io.env[name]);
  if (session.json) session.printJson({ address: settings.address, workspace: me.workspace, user: me.user, path });
  else session.print(`logged in to workspace ${me.workspace.name} as ${me.user}; kept in ${path}`);
  if (overriding.length > 0) session.note(`${overriding.join(" and ")} in your environment goes before that file`);
  return EXIT.ok;
}

async function readToken(io: Io): Promise<string> {
  const token = io.stdin.isTTY ? await askForToken(io) : await text(io.stdin);
  if (token.trim() === "")
    throw usageError("there is no token", "type it at the prompt, or give it on stdin: `pc login ADDRESS < token.txt`");
  return checkToken(token, "stdin");
}

/** Asks without showing what is typed. */
async function askForToken(io: Io): Promise<string> {
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: io.stdin, output: silent, terminal: true });
  io.stderr.write("Token: ");
  try {
    return await new Promise<string>((resolve, reject) => {
      lines.once("SIGINT", () =>
        reject(new CliError("interrupted", EXIT.interrupted, "interrupted; nothing was kept")),
      );
      lines.once("close", () => resolve(""));
      lines.question("").then(resolve, reject);
    });
  } finally {
    lines.close();
    io.stderr.write("\n");
  }
}
