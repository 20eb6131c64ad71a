import { chmod, chown, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { removeTree } from "@frazil/contracts/remove-tree";
import { z } from "zod";
import { parseJson } from "./json.ts";
import { readProcess } from "./process-list.ts";
import { type TreeRoot, waitUntilGone } from "./process-tree.ts";

/** A process for good: pids are given out again. */
const ProcessRef = z.object({ pid: z.int(), startTime: z.string() });
/** On disk per engine: a private temporary directory, and a record by which an engine that outlived its agent is found. */
const EngineRecord = z.object({ engine: ProcessRef, mark: z.string(), agent: ProcessRef });

const tempDirOf = (nodeDir: string, mark: string) => join(nodeDir, "tmp", mark);
const recordsOf = (nodeDir: string) => join(nodeDir, "engines");
const recordOf = (nodeDir: string, mark: string) => join(recordsOf(nodeDir), `${mark}.json`);

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export async function makeTempDir(nodeDir: string, mark: string, owner: Owner | undefined): Promise<string> {
  const directory = tempDirOf(nodeDir, mark);
  await mkdir(directory, { recursive: true });
  await chmod(directory, 0o700);
  if (owner === undefined) return directory;
  // Another user may pass through to its own directory, and see no other name on the way.
  for (const above of [nodeDir, join(nodeDir, "tmp")]) await chmod(above, 0o711);
  await chown(directory, owner.uid, owner.gid);
  return directory;
}

export async function recordEngine(nodeDir: string, root: TreeRoot): Promise<void> {
  await mkdir(recordsOf(nodeDir), { recursive: true });
  const agent = { pid: process.pid, startTime: readProcess(process.pid)?.startTime ?? "" };
  const record = EngineRecord.parse({ engine: root, mark: root.mark, agent });
  await writeFile(recordOf(nodeDir, root.mark), JSON.stringify(record));
}

export async function removeEngineFiles(nodeDir: string, mark: string): Promise<void> {
  await removeTree(tempDirOf(nodeDir, mark));
  await rm(recordOf(nodeDir, mark), { force: true });
}

/** Ends engines whose agent is gone, with everything that they started. Returns how many there were. */
export async function endOrphans(nodeDir: string): Promise<number> {
  const names = await readdir(recordsOf(nodeDir)).catch(() => []);
  let orphans = 0;
  for (const name of names) {
    const text = await readFile(join(recordsOf(nodeDir), name), "utf8").catch(() => "");
    const record = EngineRecord.safeParse(parseJson(text)).data;
    if (record !== undefined && isRunning(record.agent)) continue;
    orphans += 1;
    if (record !== undefined) await waitUntilGone({ ...record.engine, mark: record.mark, known: new Map() });
    // What can't be removed stays until the node is; it must not keep the others, or a next agent, from going on.
    await removeEngineFiles(nodeDir, name.replace(/\.json$/, "")).catch(() => undefined);
  }
  return orphans;
}

function isRunning(ref: z.infer<typeof ProcessRef>): boolean {
  const found = readProcess(ref.pid);
  return found !== undefined && !found.zombie && found.startTime === ref.startTime;
}
