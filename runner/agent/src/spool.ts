import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { FromNode } from "@frazil/contracts";
import type { z } from "zod";
import { parseJson } from "./json.ts";

export type FinishedMessage = Extract<z.infer<typeof FromNode>, { type: "finished" }>;

/** Outcomes on disk, one file each, so that they outlive the agent. */
export interface Spool {
  save(key: string, message: FinishedMessage): Promise<void>;
  remove(key: string): Promise<void>;
}

export async function openSpool(nodeDir: string): Promise<{ spool: Spool; found: FinishedMessage[] }> {
  const directory = join(nodeDir, "spool");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const fileOf = (key: string) => join(directory, `${key.replaceAll(/[^A-Za-z0-9_-]/g, "_")}.json`);
  const spool: Spool = {
    async save(key, message) {
      const draft = `${fileOf(key)}.draft`;
      const handle = await open(draft, "w", 0o600);
      try {
        await handle.writeFile(JSON.stringify(message));
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(draft, fileOf(key));
    },
    remove: (key) => rm(fileOf(key), { force: true }),
  };
  return { spool, found: await readAll(directory) };
}

async function readAll(directory: string): Promise<FinishedMessage[]> {
  const found: FinishedMessage[] = [];
  for (const name of await readdir(directory)) {
    const message = FromNode.safeParse(parseJson(await readFile(join(directory, name), "utf8"))).data;
    if (name.endsWith(".json") && message?.type === "finished") found.push(message);
    else await rm(join(directory, name), { force: true });
  }
  return found;
}
