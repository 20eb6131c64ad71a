import { execFile } from "node:child_process";
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";
import type { Me } from "@frazil/contracts";
import { CliError } from "./cli-error.ts";
import { homePath } from "./config.ts";
import { EXIT, type ExitCode } from "./exit-codes.ts";
import { formatBytes, formatDuration } from "./format.ts";
import { pythonCommand } from "./python-frames.ts";
import type { Session } from "./session.ts";
import { CLI_VERSION } from "./version.ts";

export interface Check {
  readonly name: string;
  readonly status: "ok" | "warning" | "failed";
  readonly detail: string;
  /** What to do about it. */
  readonly fix?: string;
}

const SKEW_WARNING_MS = 30_000;
const DISK_FREE_WARNING_BYTES = 2 * 1024 ** 3;
const PYTHON_MS_MAX = 20_000;
const PYTHON_OLDEST_MINOR = 10;

/** Runs all checks that still make sense after the ones before, and shows them. The exit code is that of the first failure. */
export async function runDoctor(session: Session, python: string | undefined): Promise<ExitCode> {
  const checks: Check[] = [];
  const codes: ExitCode[] = [];
  const me = await checkServer(session, checks, codes);
  checks.push(...(await checkPython(pythonCommand(session.io, python), me)), await checkDisk(homePath(session.io.env)));
  if (session.json) session.printJson({ ok: checks.every(({ status }) => status !== "failed"), checks });
  else for (const check of checks) showCheck(session, check);
  return codes[0] ?? EXIT.ok;
}

function showCheck({ print, paint, quiet, unicode }: Session, check: Check): void {
  if (quiet && check.status === "ok") return;
  const marks = unicode ? { ok: "✓", warning: "!", failed: "✗" } : { ok: "ok", warning: "!!", failed: "XX" };
  const styles = { ok: "green", warning: "yellow", failed: "red" } as const;
  print(`${paint(styles[check.status], marks[check.status])} ${check.name.padEnd(8)} ${check.detail}`);
  if (check.fix !== undefined) print(`  ${" ".repeat(8)} ${paint("cyan", check.fix)}`);
}

async function checkServer(session: Session, checks: Check[], codes: ExitCode[]): Promise<Me | undefined> {
  const fail = (name: string, error: unknown) => {
    const known = error instanceof CliError ? error : new CliError("bug", EXIT.noServer, String(error));
    checks.push({
      name,
      status: "failed",
      detail: known.message,
      ...(known.hint === undefined ? {} : { fix: known.hint }),
    });
    codes.push(known.exitCode === EXIT.usage ? EXIT.noServer : known.exitCode);
  };
  try {
    const settings = session.settings();
    checks.push({ name: "config", status: "ok", detail: `${settings.address} (from ${settings.source})` });
  } catch (error) {
    fail("config", error);
    return undefined;
  }
  try {
    checks.push(...(await checkHealth(session)));
  } catch (error) {
    fail("server", error);
    return undefined;
  }
  try {
    const me = await (await session.api()).me();
    checks.push(
      { name: "token", status: "ok", detail: `${me.user} in workspace ${me.workspace.name}` },
      checkVersions(me),
    );
    return me;
  } catch (error) {
    fail("token", error);
    return undefined;
  }
}

async function checkHealth(session: Session): Promise<Check[]> {
  const transport = await session.transport();
  const startedAt = performance.now();
  const health = await transport.probe("/healthz");
  const tookMs = performance.now() - startedAt;
  const { address } = transport.settings;
  if (health.status !== 200 || !/"status"/.test(health.body)) {
    const detail = `${address} answered ${health.status} to /healthz, which is not how a Frazil server answers`;
    throw new CliError("not_frazil", EXIT.noServer, detail, { hint: "check the address, and any proxy in between" });
  }
  const checks: Check[] = [{ name: "server", status: "ok", detail: `answers in ${Math.round(tookMs)} ms` }];
  const ready = await transport.probe("/readyz");
  if (ready.status !== 200) {
    const fix = "look at the server's log: its database may be away";
    checks.push({
      name: "ready",
      status: "warning",
      detail: `the server runs, but is not ready (${ready.status})`,
      fix,
    });
  }
  const skew = checkClock(health.headers.get("date"), Date.now(), tookMs);
  return skew === undefined ? checks : [...checks, skew];
}

/** HTTP dates have whole seconds, so half a second either way is no news. */
export function checkClock(serverDate: string | null, nowMs: number, tookMs: number): Check | undefined {
  const serverMs = Date.parse(serverDate ?? "");
  if (Number.isNaN(serverMs)) return undefined;
  const skewMs = nowMs - tookMs / 2 - (serverMs + 500);
  if (Math.abs(skewMs) < SKEW_WARNING_MS) return { name: "clock", status: "ok", detail: "agrees with the server's" };
  const direction = skewMs > 0 ? "ahead of" : "behind";
  return {
    name: "clock",
    status: "warning",
    detail: `this machine's clock is ${formatDuration(Math.abs(skewMs))} ${direction} the server's`,
    fix: "set the clock (NTP); times in lists are off until then",
  };
}

function checkVersions(me: Me): Check {
  const detail = `CLI ${CLI_VERSION}, server ${me.serverVersion}, Node ${process.versions.node}`;
  if (minorOf(CLI_VERSION) === minorOf(me.serverVersion)) return { name: "versions", status: "ok", detail };
  return {
    name: "versions",
    status: "warning",
    detail,
    fix: "use a CLI of the server's version: other releases may not know all of its answers",
  };
}

function minorOf(version: string): string {
  return version.split(".").slice(0, 2).join(".");
}

const PYTHON_PROBE = `
import importlib.metadata as m, json, sys
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
print(json.dumps({"python": sys.version.split()[0], "polars": version("polars"), "frazil": version("frazil"), "cloudpickle": version("cloudpickle")}))`;

interface PythonFacts {
  readonly python: string;
  readonly polars: string | null;
  readonly frazil: string | null;
  readonly cloudpickle: string | null;
}

/** Python is needed for .py files and key expressions only, so that its lack is no failure. */
async function checkPython(python: string, me: Me | undefined): Promise<Check[]> {
  let facts: PythonFacts;
  try {
    const { stdout } = await promisify(execFile)(python, ["-c", PYTHON_PROBE], { timeout: PYTHON_MS_MAX });
    facts = JSON.parse(stdout) as PythonFacts;
  } catch (error) {
    const detail = `${python} can't be run: ${(error as Error).message.split("\n")[0]}`;
    return [
      {
        name: "python",
        status: "warning",
        detail,
        fix: "name the Python of your project with --python or FRAZIL_PYTHON, to submit .py files",
      },
    ];
  }
  return [pythonCheck(python, facts), polarsCheck(facts, me), clientCheck(facts, me)];
}

function pythonCheck(python: string, facts: PythonFacts): Check {
  const detail = `${python} is Python ${facts.python}`;
  const minor = Number(facts.python.split(".")[1]);
  if (minor < PYTHON_OLDEST_MINOR)
    return { name: "python", status: "warning", detail, fix: `use Python 3.${PYTHON_OLDEST_MINOR} or newer` };
  if (facts.polars !== null && facts.cloudpickle === null) {
    return {
      name: "python",
      status: "warning",
      detail: `${detail}, without cloudpickle`,
      fix: "pip install cloudpickle, to send queries with Python functions in them",
    };
  }
  return { name: "python", status: "ok", detail };
}

function polarsCheck({ polars }: PythonFacts, me: Me | undefined): Check {
  if (polars === null)
    return {
      name: "polars",
      status: "warning",
      detail: "not installed in that Python",
      fix: "pip install polars, to submit .py files",
    };
  if (me !== undefined && !me.polars.includes(polars)) {
    return {
      name: "polars",
      status: "warning",
      detail: `${polars}, which the server does not run`,
      fix: `the server runs ${me.polars.join(", ")}`,
    };
  }
  return { name: "polars", status: "ok", detail: me === undefined ? polars : `${polars}, which the server runs` };
}

function clientCheck({ frazil }: PythonFacts, me: Me | undefined): Check {
  if (frazil === null)
    return {
      name: "client",
      status: "ok",
      detail: "the Python client (frazil) is not installed; the CLI does not need it",
    };
  const detail = `frazil ${frazil}`;
  if (me === undefined || minorOf(frazil) === minorOf(me.serverVersion))
    return { name: "client", status: "ok", detail };
  return {
    name: "client",
    status: "warning",
    detail,
    fix: `the server is ${me.serverVersion}: pip install frazil==${me.serverVersion}`,
  };
}

/** Room where `pc dev` keeps its data; the nearest directory that is there. */
async function checkDisk(path: string): Promise<Check> {
  try {
    const { bavail, bsize } = await statfs(path);
    const free = bavail * bsize;
    if (free >= DISK_FREE_WARNING_BYTES)
      return { name: "disk", status: "ok", detail: `${formatBytes(free)} free at ${path}` };
    const fix = "make room, or set FRAZIL_HOME: `pc dev` keeps its database, environments and results there";
    return { name: "disk", status: "warning", detail: `only ${formatBytes(free)} free at ${path}`, fix };
  } catch (error) {
    const parent = dirname(path);
    if ((error as NodeJS.ErrnoException).code === "ENOENT" && parent !== path) return checkDisk(parent);
    return { name: "disk", status: "warning", detail: `${path} can't be looked at: ${(error as Error).message}` };
  }
}
