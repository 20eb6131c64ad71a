import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { pipeline } from "node:stream/promises";

/** Serves one file over HTTP, whole or in ranges, and counts what it sends: what a reader really reads of it. */
export interface CountingServer {
  readonly url: string;
  bytesSent(): number;
  close(): void;
}

const RANGE = /^bytes=(\d*)-(\d*)$/;

export async function serveFile(path: string): Promise<CountingServer> {
  const { size } = await stat(path);
  let sent = 0;
  const server = createServer((request, response) => {
    const [, from = "", to = ""] = RANGE.exec(request.headers.range ?? "") ?? [];
    const isRange = from !== "" || to !== "";
    const start = from === "" ? (to === "" ? 0 : size - Number(to)) : Number(from);
    const end = from === "" || to === "" ? size - 1 : Math.min(size - 1, Number(to));
    response.writeHead(isRange ? 206 : 200, {
      "accept-ranges": "bytes",
      "content-length": end - start + 1,
      "last-modified": new Date(0).toUTCString(),
      ...(isRange ? { "content-range": `bytes ${start}-${end}/${size}` } : {}),
    });
    if (request.method === "HEAD") return response.end();
    sent += end - start + 1;
    // A reader may leave in the middle.
    pipeline(createReadStream(path, { start, end }), response).catch(() => undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/days.parquet`,
    bytesSent: () => sent,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
