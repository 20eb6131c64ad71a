import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { Transform, type TransformCallback } from "node:stream";

/** What a network does to those who use it. */
export interface Weather {
  /** Bytes take this long. */
  readonly delayMs?: number;
  /** And pass no faster than this, each way of each connection. */
  readonly bytesPerSecond?: number;
  /** There is no way to the other side: connections that are there break, new ones are cut as they come. */
  readonly isCut?: boolean;
}

export interface TcpProxy {
  readonly address: string;
  /** Connections that were made through it, in all. */
  readonly connections: number;
  /** The beginning of what the near sides have said, as text. */
  heard(): string;
  /** From now on; a cut also befalls the connections that are there. */
  set(weather: Weather): void;
  /** The connections that are there stay open, and nothing passes any more in either direction (half-open): what is sent is lost. */
  deafen(): void;
  /** Breaks what is there once, with a reset, and goes on. */
  reset(): void;
  close(): Promise<void>;
}

const HEARD_CHARS_MAX = 1_000_000;

/** Stands between two parties of TCP, and makes the weather between them. */
export async function startTcpProxy(target: string): Promise<TcpProxy> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  const deaf = new Set<Socket>();
  let weather: Weather = {};
  let connections = 0;
  let heard = "";
  const reset = () => {
    for (const socket of sockets) socket.resetAndDestroy();
  };
  const server = createServer((near) => {
    if (weather.isCut === true) return void near.resetAndDestroy();
    connections += 1;
    const far = connect(Number(port), hostname);
    near.on("data", (piece: Buffer) => {
      if (heard.length < HEARD_CHARS_MAX) heard += piece.toString("latin1");
    });
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.setNoDelay(true);
      sockets.add(from);
      from.on("error", () => undefined);
      from.on("close", () => {
        sockets.delete(from);
        // A half-open connection tells the other side nothing.
        if (!deaf.delete(from)) to.destroy();
      });
      from
        .pipe(
          makeRoad(
            () => weather,
            () => deaf.has(from),
          ),
        )
        .pipe(to);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    heard: () => heard,
    get connections() {
      return connections;
    },
    set(next) {
      weather = next;
      if (next.isCut === true) reset();
    },
    deafen() {
      for (const socket of sockets) deaf.add(socket);
    },
    reset,
    async close() {
      reset();
      server.close();
      await once(server, "close");
    },
  };
}

/** One direction of a connection. */
function makeRoad(weather: () => Weather, isDeaf: () => boolean): Transform {
  let freeAtMs = 0;
  return new Transform({
    transform(piece: Buffer, _: BufferEncoding, done: TransformCallback) {
      const { delayMs = 0, bytesPerSecond = Number.POSITIVE_INFINITY } = weather();
      if (isDeaf()) return done();
      const nowMs = performance.now();
      freeAtMs = Math.max(freeAtMs, nowMs) + (piece.length / bytesPerSecond) * 1_000;
      const waitMs = freeAtMs - nowMs + delayMs;
      if (waitMs < 1) return done(null, piece);
      setTimeout(() => done(null, piece), waitMs);
    },
  });
}
