import type { TaskResult } from "@frazil/contracts";
import { formatCell } from "./arrow-cell.ts";

/** Decodes a result's first rows to text. Undefined when there are none, or when they hold a type that the reader does not know (such as Int128). */
export async function readHead(
  result: Pick<TaskResult, "head" | "schema">,
  rowsMax: number,
): Promise<string[][] | undefined> {
  if (result.head === null || result.schema.length === 0) return undefined;
  const { CompressionType, setCompressionCodec, tableFromIPC } = await import("@uwdata/flechette");
  const { zstdCompressSync, zstdDecompressSync } = await import("node:zlib");
  setCompressionCodec(CompressionType.ZSTD, { encode: zstdCompressSync, decode: zstdDecompressSync });
  try {
    const table = tableFromIPC(Buffer.from(result.head, "base64"), { useBigInt: true, useDecimalInt: true });
    const columns = result.schema.map((_, index) => table.getChildAt(index));
    const count = Math.min(table.numRows, rowsMax);
    return Array.from({ length: count }, (_, row) => columns.map((column) => formatCell(column.at(row), column.type)));
  } catch {
    // The head is an extra: schema, rows and locations are shown without it.
    return undefined;
  }
}
