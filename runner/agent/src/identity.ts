import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { JoinAnswer } from "@frazil/contracts";

/** What makes a restarted agent the same node. The token is a secret: the file is readable by the agent's user only. */
export type Identity = JoinAnswer;

const fileOf = (nodeDir: string) => join(nodeDir, "identity.json");

/** Undefined when this directory has not joined yet, or when its file is not an identity. */
export async function loadIdentity(nodeDir: string): Promise<Identity | undefined> {
  try {
    return JoinAnswer.parse(JSON.parse(await readFile(fileOf(nodeDir), "utf8")));
  } catch {
    return undefined;
  }
}

export async function saveIdentity(nodeDir: string, identity: Identity): Promise<void> {
  await mkdir(nodeDir, { recursive: true });
  const draft = `${fileOf(nodeDir)}.${process.pid}`;
  await writeFile(draft, JSON.stringify(identity), { mode: 0o600 });
  await rename(draft, fileOf(nodeDir));
}
