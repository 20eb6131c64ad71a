/** A real control plane as a process of its own, on a cloud whose machines are played by other processes. */
import { bootstrap, readConfig, startControlPlane } from "@frazil/control-plane";
import type { Cloud } from "@frazil/infra";
import { pino } from "pino";
import type { FromPlane } from "./messages.ts";

function tell(message: FromPlane): void {
  process.send?.(message);
}

const destroyed = new Set<string>();
const cloud: Cloud = {
  name: "local",
  refusal: () => undefined,
  async createNode(order) {
    tell({ kind: "order", order });
    return { kind: "made", handle: { machine: order.nodeId } };
  },
  listAlive: async (nodes) => new Set(nodes.map((node) => node.nodeId).filter((nodeId) => !destroyed.has(nodeId))),
  destroyNode: async ({ nodeId }) => void destroyed.add(nodeId),
  close: async () => undefined,
};

const config = readConfig(process.env);
if (config.bootstrap === undefined) throw new Error("a workspace is needed");
const plane = await startControlPlane(config, [cloud], pino({ level: config.logLevel }));
const { token } = await bootstrap(plane.deps.pool, config.home, config.bootstrap);
process.on("disconnect", () => process.exit());
tell({ kind: "started", address: plane.address, token });
