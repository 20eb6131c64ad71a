import { endOrphans } from "./engine-files.ts";

/** Run by the guard when its agent has ended: `node end-orphans-main.ts <node directory>`. */
const [nodeDir] = process.argv.slice(2);
if (nodeDir !== undefined) await endOrphans(nodeDir);
