import { createHash } from "node:crypto";
import { type ClusterShape, ClusterShape as ClusterShapeSchema, type ComputeContext } from "@frazil/contracts";

/** `cloud` is the workspace's own, for a context that names none. */
export function shapeOf(context: ComputeContext, cloud: string): ClusterShape {
  return ClusterShapeSchema.parse({
    cloud: context.cloud ?? cloud,
    cpus: context.cpus,
    memoryGiB: context.memoryGiB,
    gpus: context.gpus,
    clusterSize: context.clusterSize,
  });
}

/** Jobs whose shapes have the same hash can share a cluster. */
export function hashShape(shape: ClusterShape): string {
  const ordered = [shape.cloud, shape.cpus, shape.memoryGiB, shape.gpus, shape.clusterSize];
  return createHash("sha256").update(JSON.stringify(ordered)).digest("hex").slice(0, 32);
}
