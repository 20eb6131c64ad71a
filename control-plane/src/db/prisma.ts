import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "./generated/client.ts";

const CONNECTIONS_MAX = 5;

/** For lists that people ask for. The flow's own statements are SQL, on a pool of their own. */
export function openPrisma(connectionString: string): PrismaClient {
  return new PrismaClient({ adapter: new PrismaPg({ connectionString, max: CONNECTIONS_MAX }) });
}
