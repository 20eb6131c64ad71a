import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { ROOT } from "./paths.mjs";

const NODE_MAJOR_MIN = 24;

/** The folder of the Node that runs the project: the pinned one from npm, or this very Node where no package exists for the platform. */
export function findNodeFolder() {
  const packaged = join(ROOT, "node_modules", `node-${process.platform}-${process.arch}`, "bin");
  if (existsSync(join(packaged, "node"))) return packaged;
  const major = Number(process.versions.node.split(".")[0]);
  if (major >= NODE_MAJOR_MIN) return dirname(process.execPath);
  throw new Error(
    `no pinned Node exists for ${process.platform}-${process.arch}: install Node ${NODE_MAJOR_MIN} or newer and run this again (this is ${process.version})`,
  );
}
