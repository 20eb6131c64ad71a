import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { link, readFile, rename, rm, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import { z } from "zod";

const run = promisify(execFile);
const ATTEMPTS_MAX = 20;

const Owner = z.object({ pid: z.int().positive(), startedAt: z.string() });
type Owner = z.infer<typeof Owner>;

/**
 * Claims a file for this process: at most one living process holds it. The claim of a process that died is taken over. A process is
 * known by its id and start, because ids come back. Returns the function that gives the claim up.
 */
export async function claim(file: string, what: string): Promise<() => Promise<void>> {
  const self: Owner = { pid: process.pid, startedAt: await readStart(process.pid) };
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
    if (await tryCreate(file, self)) return () => rm(file, { force: true });
    const content = await readIfThere(file);
    if (content === undefined) continue;
    const owner = parseOwner(content);
    if (owner && (await isAlive(owner))) throw new Error(`${what} is in use by process ${owner.pid}`);
    await discard(file, content);
  }
  throw new Error(`could not claim ${file}`);
}

/** The file appears together with its content: nobody ever reads a claim without an owner. */
async function tryCreate(file: string, owner: Owner): Promise<boolean> {
  const draft = `${file}.${randomUUID()}`;
  try {
    await writeFile(draft, JSON.stringify(owner));
    await link(draft, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    await rm(draft, { force: true });
  }
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Undefined for what no living process has: an empty file, say, which a loss of power leaves. */
function parseOwner(content: string): Owner | undefined {
  try {
    return Owner.parse(JSON.parse(content));
  } catch {
    return undefined;
  }
}

/** Two processes may both see the dead owner: the one that moved away a living claim by mistake puts it back. */
async function discard(file: string, content: string): Promise<void> {
  const aside = `${file}.dead.${process.pid}`;
  try {
    await rename(file, aside);
    if ((await readIfThere(aside)) !== content) await link(aside, file);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== "ENOENT" && code !== "EEXIST") throw error;
  } finally {
    await rm(aside, { force: true });
  }
}

async function isAlive(owner: Owner): Promise<boolean> {
  return (await readStart(owner.pid)) === owner.startedAt;
}

/** When a process started, as the system tells it; empty when there is no such process. */
async function readStart(pid: number): Promise<string> {
  if (process.platform === "linux") {
    const line = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
    // The command's name, in parentheses, may hold spaces; the start is the 22nd field, the 20th after it.
    return line.slice(line.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  }
  const result = await run("ps", ["-o", "lstart=", "-p", String(pid)]).catch(() => ({ stdout: "" }));
  return result.stdout.trim();
}
