import { describe, expect, it } from "vitest";
import { refuseOldNode } from "./node-release.ts";

describe("a Node release", () => {
  it.each(["22.15.0", "22.21.1", "23.8.0", "24.0.0", "25.2.1", "26.0.0-nightly"])("%s is new enough", (release) => {
    expect(refuseOldNode(release)).toBeUndefined();
  });

  it.each(["18.20.8", "20.20.2", "22.14.0", "23.7.0"])("%s is too old", (release) => {
    expect(refuseOldNode(release)).toMatchObject({
      code: "node_too_old",
      exitCode: 2,
      message: `pc needs Node 22.15 or newer, and this is Node ${release}`,
    });
  });
});
